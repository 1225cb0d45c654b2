"""Buttons that save what is shown as a file."""

import io
from collections.abc import Callable
from typing import Any

import panel as pn
import xarray as xr

from attlas.dashboards import export
from attlas.dashboards.data import Catalogue
from attlas.dashboards.state import BenchState
from attlas.dashboards.views.style import BUTTONS
from attlas.schemas.errors import NotRecordedError

__all__ = ["Downloads"]


class Downloads:
    """PNG and NetCDF of the answer, and GIF over the calls; each file is made when its button is pressed."""

    def __init__(self, catalogue: Catalogue, state: BenchState) -> None:
        self._catalogue, self._state = catalogue, state
        self._moving = self._button("Save GIF over time", "gif", self.gif)
        self.buttons = [
            self._button("Save PNG", "png", self.png),
            self._moving,
            self._button("Save NetCDF", "nc", self.netcdf),
        ]

    def allow(self, *, answer: bool, time: bool) -> None:
        """Let the buttons be pressed where there is something to save: an answer, and one by calls."""
        for button in self.buttons:
            button.disabled = not (answer and (time or button is not self._moving))

    def _button(self, label: str, suffix: str, make: Callable[[], bytes]) -> Any:
        def file() -> io.BytesIO:
            state = self._state
            named = {"word": state.word, "map": state.map}
            asked = named.get(state.mode, f"{state.mode}-{state.row}-{state.column}")
            button.filename = f"{state.run}-{asked}-{state.direction}.{suffix}"
            return io.BytesIO(make())

        button = pn.widgets.FileDownload(
            callback=file,
            filename=f"attention.{suffix}",
            label=label,
            embed=False,
            margin=(0, 0, 0, 8),
            stylesheets=[BUTTONS],
        )
        return button

    def png(self) -> bytes:
        """Return the answer over its picture."""
        return export.png(self._picture(), self._answer(), **self._style())

    def gif(self) -> bytes:
        """Return the answer by groups of calls, over its picture."""
        maps = self._catalogue.strip(self._state.question, self._state.patch_grid, "t")
        return export.gif(self._picture(), maps, "t", **self._style())

    def netcdf(self) -> bytes:
        """Return the answer as labelled data."""
        return export.netcdf(self._catalogue.trace(self._state.store, self._state.run), self._answer())

    def _answer(self) -> xr.DataArray:
        return self._catalogue.answer(self._state.question, self._state.patch_grid).attention

    def _picture(self) -> xr.DataArray:
        state = self._state
        side = self._catalogue.answer(state.question, state.patch_grid).side
        picture = self._catalogue.picture(state.store, state.run, side)
        if picture is None:
            raise NotRecordedError(f"store {state.store!r} has no {side} picture")
        return picture

    def _style(self) -> dict[str, Any]:
        return {name: getattr(self._state, name) for name in ("colours", "opacity", "threshold")}
