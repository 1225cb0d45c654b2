"""A small store with a file of every kind: what damage is done to."""

import shutil
from pathlib import Path

import dask
import xarray as xr
from faults.children import in_child
from faults.evidence import digest
from faults.scenarios import SCENARIOS

from attlas.analysis import Trace, survey
from attlas.schemas import simulate_store

__all__ = ["SAMPLES", "make_sample", "surveyed"]


def brightness(trace: Trace) -> xr.DataArray:
    """Mean of each picture: one number a run."""
    return trace.images.astype("f4").mean(("image_y", "image_x", "rgb"))


def peaks(trace: Trace) -> xr.DataArray:
    """Largest share of any key, by layer and head: numbers with labels."""
    name = next(iter(trace.leaves))
    return trace.dataset(name)["g2r"].max(("branch", "t", "key"))


def simulated(path: Path) -> None:
    """Dense text, factors of a reference, a joint sequence, pictures, masks, true correspondences, numbers."""
    simulate_store(path, kinds=("text", "image", "joint"), references=1, runs=2, calls=2, layers=1)
    surveyed(path)


def recorded(path: Path) -> None:
    """A vocabulary, projections, and annotations of every dtype, of which one run has more than the other."""
    SCENARIOS["annotations and vocabulary"].call(path)
    surveyed(path)


SAMPLES = {"simulated": simulated, "recorded": recorded}


def make_sample(name: str, folder: Path) -> Path:
    """Make a sample once below `folder`; return its path."""
    path = folder / f"{name}.zarr"
    if not path.exists():
        draft = folder / "draft" / path.name
        draft.parent.mkdir(parents=True, exist_ok=True)
        ended = in_child(lambda _: SAMPLES[name](draft) and None)
        if not ended.returned:
            raise AssertionError(f"{ended}\n{ended.trace}")
        shutil.move(draft, path)
    return path


def surveyed(path: Path) -> dict[str, str]:
    """What a survey finds, which it keeps in the store and reads there again."""
    with dask.config.set(scheduler="synchronous"):
        made = survey(path, [brightness, peaks], progress=False)
    return {name: digest(made.scores[name].values) for name in ("brightness", "peaks")}
