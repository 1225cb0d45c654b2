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

_NOTHING = xr.DataArray(np.zeros((1, 1), np.float32), dims=("y", "x"))


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
        self._drawn: dict[str, Any] = {}
        self._inputs: dict[str, tuple[Any, ...]] = {}
        self._stream: Any = None
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
        self.image = image
        values = _NOTHING if attention is None else attention
        style = style if attention is not None else {}
        extent = self.extent
        changes = [
            self._renew("picture", (image, extent), lambda: plots.picture(image, size=self.size)),
            self._renew("heat", (values, extent, style), lambda: plots.heat(values, extent=extent, **style)),
            self._renew("frame", (patch, grid, extent), lambda: plots.outline(patch, grid, extent)),
        ]
        if fresh:
            self._build()
        elif any(changes):
            self._stream.send(dict(self._drawn))

    def _renew(self, name: str, inputs: tuple[Any, ...], make: Callable[[], Any]) -> bool:
        """Draw a layer anew if its inputs changed; HoloViews passes over an element that is the same one."""
        before = self._inputs.get(name, ())
        same = len(before) == len(inputs) and all(
            old is new if isinstance(new, xr.DataArray) else old == new for old, new in zip(before, inputs, strict=True)
        )
        if not same:
            self._inputs[name] = inputs
            self._drawn[name] = make()
        return not same

    def _build(self) -> None:
        """Make the plot anew, for a picture of another shape; the clicks are those on the picture's element.

        One stream feeds all layers: each stream that sends makes HoloViews go through the whole plot.
        """
        self._stream = hv.streams.Pipe(data=dict(self._drawn))
        layers = {
            name: hv.DynamicMap(lambda data, name=name: data[name], streams=[self._stream])
            for name in ("picture", "heat", "frame")
        }
        self._tap = hv.streams.Tap(source=layers["picture"], x=None, y=None)
        self._tap.add_subscriber(self._tapped)
        # The frame comes with the picture's element; options set here would be applied anew on every change.
        self.pane.object = layers["picture"] * layers["heat"] * layers["frame"]

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
        self.pane.object = hv.DynamicMap(lambda data: data, streams=[self._stream])

    def say(self, words: str) -> None:
        """Show one line of text instead of the strip."""
        say(self.note, words)
        self.pane.visible = False
