"""A computed map as a file: PNG laid over its picture, NetCDF, or a table."""

from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from PIL import Image

from attlas.analysis.normalise import threshold
from attlas.analysis.output.overlay import overlay
from attlas.analysis.output.whole_file import check_suffix, save_netcdf, save_table, whole_file
from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError

__all__ = ["SUFFIXES", "background", "mosaic", "one_frame", "save_map"]

SUFFIXES = (".png", ".nc", ".parquet")
GAP = 2
ENLARGE_TO = 256
"""Small pictures are enlarged by a whole factor to about this many pixels a side."""


def save_map(
    trace: Trace, values: xr.DataArray, path: str | Path, *, tau: float | None = None, rule: str = "minmax"
) -> None:
    """Write maps to `path`: the numbers with labels, or the maps laid over their pictures.

    ``.nc`` keeps dims and attributes; ``.parquet`` has a row for each number, its labels in columns; ``.png`` is a
    picture. A file is there whole or not at all.

    Parameters
    ----------
    trace
        Where the pictures are.
    values
        Map of some of its runs; a picture needs one frame of a video, chosen by ``.isel(query_frame=...)``.
    path
        File to write; replaced if it exists.
    tau, rule
        Threshold for the picture (see `threshold`); None shows all values.

    Raises
    ------
    InvalidValueError
        For another suffix, a picture of a map of tokens, which have no place, or one of all frames of a video.
    """
    target = check_suffix(path, SUFFIXES)
    named = values.rename("map" if values.name is None else values.name)
    if target.suffix == ".nc":
        save_netcdf(named.compute().to_dataset(), target)
        return
    if target.suffix == ".parquet":
        save_table(named.compute().to_dataframe().reset_index(), target)
        return
    if values.dims[-1] == "key":
        raise InvalidValueError("a map of tokens has no place in a picture; write FILE.nc, or use --json")
    shown = values if tau is None else threshold(values, tau, rule=rule, mode="soft")
    painted = overlay(shown, background(trace, values)).compute()
    with whole_file(target) as part:
        Image.fromarray(mosaic(painted)).save(part)


def background(trace: Trace, values: xr.DataArray) -> xr.DataArray:
    """Picture that a map lies on: the reference image for patches of it, else the generated image; lazy.

    Of a video the frame of the map, where one was chosen (``query_frame`` or ``key_frame`` is a coordinate without a
    dim), else the middle frame.
    """
    of_reference = values.attrs.get("kind") == "image" or values.attrs.get("segment") == "reference"
    if values.dims[-1] == "key_x" and of_reference:
        return trace.reference.sel(run=values["run"].values)
    chosen = [name for name in ("query_frame", "key_frame") if name in values.coords and name not in values.dims]
    latent = int(values[chosen[0]]) if chosen else None
    frames = values.attrs.get("frames")
    if latent is None or frames is None or trace.frames is None:
        return trace.images.sel(run=values["run"].values)
    # The first and the last latent frame lie at the ends of the video, whatever the autoencoder's stride.
    shown = round(latent * (trace.frames - 1) / max(1, int(frames) - 1))
    return trace.videos.isel(video_frame=shown).sel(run=values["run"].values)


def one_frame(values: xr.DataArray, frame: int | None = None) -> xr.DataArray:
    """Take maps of one latent frame of a video, by default of the middle one; other maps stay as they are.

    Raises
    ------
    InvalidValueError
        If there is no such frame.
    """
    for dim in ("query_frame", "key_frame"):
        if dim in values.dims:
            count = values.sizes[dim]
            if frame is not None and not 0 <= frame < count:
                raise InvalidValueError(f"frame {frame} of {count}; 0 to {count - 1} is accepted")
            return values.isel({dim: count // 2 if frame is None else frame})
    return values


def mosaic(painted: xr.DataArray) -> NDArray[np.uint8]:
    """One picture of many, uint8 ``(row, column, rgb)``: runs below each other, kept axes side by side."""
    height, width = painted.shape[-3:-1]
    tiles = painted.values.reshape(painted.shape[0], -1, height, width, 3)
    factor = max(1, ENLARGE_TO // max(height, width))
    tiles = tiles.repeat(factor, axis=2).repeat(factor, axis=3)
    rows, columns, height, width = tiles.shape[:4]
    made = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height + GAP), column * (width + GAP)
            made[top : top + height, left : left + width] = tiles[row, column]
    return made
