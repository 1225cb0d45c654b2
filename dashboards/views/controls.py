"""The widgets of the bench: they show the state, and ask for another one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import panel as pn

from attlas.dashboards.colours import COLOUR_MAPS
from attlas.dashboards.state import BenchState
from attlas.dashboards.views.style import BUTTONS, text

__all__ = ["Controls"]

DIRECTION_LABELS = {"over keys (g2r)": "g2r", "over queries (r2g)": "r2g"}
KIND_LABELS = {"image": "reference", "joint": "sequence", "self": "itself", "text": "text"}


class Controls:
    """Selectors, switches and sliders, each for the parameter of its name.

    Parameters
    ----------
    change
        Called with the parameter's name and its new value when a person moves a widget.
    """

    def __init__(self, change: Callable[[str, Any], None]) -> None:
        self._change = change
        self._quiet = False
        wide: dict[str, Any] = {"sizing_mode": "stretch_width", "margin": (4, 0)}
        group: dict[str, Any] = {"margin": 0, "stylesheets": [BUTTONS], "sizing_mode": "stretch_width"}
        self.widgets: dict[str, Any] = {
            "store": pn.widgets.Select(label="Store", **wide),
            "map": pn.widgets.Select(label="Map of the whole run", **wide),
            "kind": pn.widgets.RadioButtonGroup(label="Attention to", **group),
            "direction": pn.widgets.RadioButtonGroup(label="Softmax", options=dict(DIRECTION_LABELS), **group),
            "branch": pn.widgets.RadioButtonGroup(label="Branch", **group),
            "grid": pn.widgets.RadioButtonGroup(label="Layers by grid", **group),
            "threshold": pn.widgets.FloatSlider(label="Hide below", start=0, end=1, step=0.05, **wide),
            "opacity": pn.widgets.FloatSlider(label="Opacity", start=0, end=1, step=0.05, **wide),
            "colours": pn.widgets.Select(label="Colours", options=list(COLOUR_MAPS), **wide),
            "shared": pn.widgets.Checkbox(label="one range for all tiles", margin=(4, 0)),
        }
        self.groups = {name: self._titled(name) for name in ("kind", "direction", "branch", "grid")}
        for name, widget in self.widgets.items():
            widget.param.watch(lambda event, name=name: self._moved(name, event.new), "value")

    def _moved(self, name: str, value: Any) -> None:
        # The empty choice of a map says that a patch or word is asked.
        if not self._quiet and value is not None and (name, value) != ("map", ""):
            self._change(name, value)

    @contextmanager
    def _silence(self) -> Iterator[None]:
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    def show(self, state: BenchState) -> None:
        """Bring options and values of all widgets to those of the state; asks for nothing."""
        offer = state.offered
        grids = tuple(offer.grids.get(state.kind, {}))
        kinds = offer.kinds(state.mode)
        options: dict[str, Any] = {
            "store": list(state.offers.stores),
            "kind": {KIND_LABELS[kind]: kind for kind in kinds},
            "branch": [name for name in offer.branches if name in offer.branches_for(state.mode)],
            "grid": list(grids),
            "map": {"none: click a picture or a word": "", **{name: name for name in offer.maps}},
        }
        with self._silence():
            for name, widget in self.widgets.items():
                moved = {"options": options[name]} if name in options else {}
                widget.param.update(**moved, value=_shown(state, name))
        self.widgets["map"].visible = bool(offer.maps)
        for name, group in self.groups.items():
            group.visible = len(self.widgets[name].options) > 1

    def _titled(self, name: str) -> Any:
        """Buttons with their label above them: they show none of their own."""
        heading = text("attlas-label", self.widgets[name].label, margin=(6, 0, 2, 0))
        return pn.Column(heading, self.widgets[name], margin=0, sizing_mode="stretch_width")


def _shown(state: BenchState, name: str) -> Any:
    """Value of a widget; a map only while one is asked."""
    return "" if name == "map" and state.mode != "map" else getattr(state, name)
