"""The frame of every plot: no axes, no tools, exactly as large as its picture."""

from typing import Any

import holoviews as hv

__all__ = ["framed", "load"]

_FRAME: dict[str, Any] = {
    "xaxis": None,
    "yaxis": None,
    "toolbar": None,
    "default_tools": [],
    "border": 0,
    "show_frame": False,
    "show_legend": False,
    "invert_yaxis": True,
    "padding": 0,
    # Pictures beside each other keep their own ranges.
    "axiswise": True,
}


def load() -> None:
    """Make bokeh the backend once: options below are bokeh's."""
    if "bokeh" not in hv.Store.renderers:
        hv.extension("bokeh", logo=False)


def framed(element: Any, shape: tuple[float, float], size: int) -> Any:
    """Fix frame and ranges, so that the frame shows exactly a picture of `shape`, its longer side `size` pixels."""
    height, width = shape
    scale = size / max(height, width)
    across, down = round(width * scale), round(height * scale)
    frame = {
        "frame_width": across,
        "frame_height": down,
        # bokeh warns (W-1005) about a figure of fixed size that has no width of its own
        "backend_opts": {"plot.width": across, "plot.height": down, "plot.min_border": 0},
    }
    return element.opts(xlim=(0, width), ylim=(0, height), **frame, **_FRAME)
