"""A picture that shows a map and a framed patch, and says which patch was clicked."""

from collections.abc import Callable
from typing import Any

import holoviews as hv
import numpy as np
import panel as pn
import xarray as xr

from attlas.dashboards import plots
from attlas.dashboards.views.style import say, text

__all__ = ["PicturePane", "StripPane"]

Grid = tuple[int, int]

_NOTHING = np.zeros((1, 1), np.float32)


class PicturePane:
    """One picture in a frame without axes: map and frame change, the picture itself is sent once per run.

    Parameters
    ----------
    css_class
        Class of the pane's element on the page.
    clicked
        Called with (x, y) in pixels of the picture, y down.
    """

    def __init__(self, css_class: str, clicked: Callable[[float, float], None], *, size: int = plots.SIZE) -> None:
        self.image: xr.DataArray | None = None
        self.size = size
        self.clicked = clicked
        self._streams: dict[str, Any] = {}
        self.pane = pn.pane.HoloViews(css_classes=[css_class], linked_axes=False, margin=0, visible=False)

    @property
    def extent(self) -> Grid:
        """Rows and columns of the picture in pixels."""
        if self.image is None:
            return (1, 1)
        return (self.image.shape[0], self.image.shape[1])

    def show(
        self,
        image: xr.DataArray | None,
        attention: xr.DataArray | None = None,
        *,
        patch: Grid | None = None,
        grid: Grid = (1, 1),
        **style: Any,
    ) -> None:
        """Draw picture, map and framed patch; None hides the pane, or leaves the map or the frame away."""
        self.pane.visible = image is not None
        if image is None:
            self.image = None
            return
        fresh = self.image is None or self.extent != (image.shape[0], image.shape[1])
        changed = image is not self.image
        self.image = image
        values = xr.DataArray(_NOTHING, dims=("y", "x")) if attention is None else attention
        elements = {
            "picture": plots.picture(image, size=self.size),
            "heat": plots.heat(values, extent=self.extent, **style),
            "frame": plots.outline(patch, grid, self.extent),
        }
        if fresh:
            self._build(elements)
            return
        for name, element in elements.items():
            if name != "picture" or changed:
                self._streams[name].send(element)

    def _build(self, elements: dict[str, Any]) -> None:
        """Make the plot anew, for a picture of another shape; the clicks are those on the picture's element."""
        self._streams = {name: hv.streams.Pipe(data=element) for name, element in elements.items()}
        layers = {name: hv.DynamicMap(lambda data: data, streams=[stream]) for name, stream in self._streams.items()}
        tap = hv.streams.Tap(source=layers["picture"], x=None, y=None)
        tap.add_subscriber(self._tapped)
        self._tap = tap
        self.pane.object = plots.framed(layers["picture"] * layers["heat"] * layers["frame"], self.extent, self.size)

    def _tapped(self, x: float | None = None, y: float | None = None) -> None:
        if x is not None and y is not None:
            self.clicked(float(x), float(y))


class StripPane:
    """Small multiples below a title; one line of text stands in their place where they cannot be had."""

    def __init__(self, title: str, css_class: str) -> None:
        self._extent: Grid | None = None
        self._stream: Any = None
        heading = text("attlas-label", title, margin=(12, 0, 0, 0))
        self.note = text("attlas-muted")
        self.pane = pn.pane.HoloViews(css_classes=[css_class], linked_axes=False, margin=0, visible=False)
        self.box = pn.Column(heading, self.note, self.pane, margin=0)

    def show(self, element: Any, extent: Grid) -> None:
        """Draw a strip of `extent` pixels, as `plots.strip` makes it."""
        self.note.visible = False
        self.pane.visible = True
        if extent == self._extent:
            self._stream.send(element)
            return
        self._extent = extent
        self._stream = hv.streams.Pipe(data=element)
        strip = hv.DynamicMap(lambda data: data, streams=[self._stream])
        self.pane.object = plots.framed(strip, extent, max(extent))

    def say(self, words: str) -> None:
        """Show one line of text instead of the strip."""
        say(self.note, words)
        self.pane.visible = False
