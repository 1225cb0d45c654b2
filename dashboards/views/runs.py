"""The runs of a store as a shelf of small pictures, a page at a time."""

from collections.abc import Callable
from typing import Any

import numpy as np
import panel as pn
from PIL import Image

from attlas.dashboards.data import Catalogue
from attlas.dashboards.labels import run_labels
from attlas.dashboards.page import png_uri
from attlas.dashboards.views.choices import RunGallery
from attlas.dashboards.views.style import BUTTONS, say, text
from attlas.schemas.errors import AttlasError

__all__ = ["RunShelf"]

PAGE = 12
THUMB = 72


class RunShelf:
    """Thumbnails of a page of runs, with buttons to the pages before and after.

    Parameters
    ----------
    catalogue
        Where pictures come from.
    choose
        Called with the label of the run that a person picks.
    """

    def __init__(self, catalogue: Catalogue, choose: Callable[[str], None]) -> None:
        self._catalogue, self._choose = catalogue, choose
        self._shown: tuple[str, int] | None = None
        self._store, self._page = "", 0
        self._ids: tuple[str, ...] = ()
        self.gallery = RunGallery(sizing_mode="stretch_width", margin=0)
        self.gallery.param.watch(lambda event: self._picked(event.new), "value")
        turn: dict[str, Any] = {"margin": 0, "stylesheets": [BUTTONS]}
        self.back = pn.widgets.Button(label="back", **turn)
        self.forth = pn.widgets.Button(label="next", **turn)
        self.back.on_click(lambda _: self._turn(-1))
        self.forth.on_click(lambda _: self._turn(1))
        self.count = text("attlas-muted", margin=(4, 0), align="center")
        self.pager = pn.Row(self.back, pn.HSpacer(), self.count, pn.HSpacer(), self.forth, sizing_mode="stretch_width")
        self.box = pn.Column(self.gallery, self.pager, margin=0, sizing_mode="stretch_width")

    def show(self, store: str, run: str) -> None:
        """Show the page that holds `run`, and mark it."""
        self._store, self._ids = store, self._catalogue.trace(store).run_ids
        self._page = self._ids.index(run) // PAGE
        self._draw()
        self.gallery.value = run

    def _turn(self, pages: int) -> None:
        self._page = min(max(self._page + pages, 0), (len(self._ids) - 1) // PAGE)
        self._draw()

    def _draw(self) -> None:
        first = self._page * PAGE
        shown: tuple[str, ...] = self._ids[first : first + PAGE]
        self.pager.visible = len(self._ids) > PAGE
        self.back.disabled, self.forth.disabled = first == 0, first + PAGE >= len(self._ids)
        say(self.count, f"{first + 1} to {first + len(shown)} of {len(self._ids)}")
        if self._shown != (self._store, self._page):
            self._shown = (self._store, self._page)
            labels = dict(zip(self._ids, run_labels(self._ids), strict=True))
            self.gallery.items = [self._item(run, labels[run]) for run in shown]

    def _item(self, run: str, label: str) -> dict[str, str | None]:
        prompt = str(self._catalogue.trace(self._store, run).runs["prompt"].values[0])
        title = f"run {run}: {prompt}" if prompt else f"run {run}"
        return {"id": run, "text": label, "title": title, "source": self._thumbnail(run)}

    def _thumbnail(self, run: str) -> str | None:
        """Small picture of a run; none where it cannot be read, which choosing the run will explain."""
        try:
            image = self._catalogue.picture(self._store, run)
        except AttlasError:
            return None
        if image is None:
            return None
        small = Image.fromarray(np.asarray(image.values))
        small.thumbnail((THUMB, THUMB))
        return png_uri(np.asarray(small))

    def _picked(self, run: str) -> None:
        if run:
            self._choose(run)
