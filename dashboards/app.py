"""The page as a whole: header, notices, the bench, and the address bar that holds its state."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import panel as pn

from attlas.dashboards.data import Catalogue
from attlas.dashboards.state import BenchState, drawn_only
from attlas.dashboards.views.address import AddressBar, from_search, to_search
from attlas.dashboards.views.bench import Bench
from attlas.dashboards.views.style import PAGE_STYLE, text
from attlas.schemas.errors import AttlasError

__all__ = ["Page", "page"]


class Page:
    """One visit: a state of its own over the shared catalogue.

    Parameters
    ----------
    catalogue
        Where the data comes from.
    search
        Address that the visit begins with, such as ``?run=0001&word=disc``.

    Attributes
    ----------
    state, bench
        None where no store can be shown.
    """

    def __init__(self, catalogue: Catalogue, search: str = "") -> None:
        self.catalogue = catalogue
        self.bar = AddressBar()
        self.state, problems = _first_state(catalogue, from_search(search).get("store"))
        self.bench: Bench | None = None
        if self.state is None:
            self.notice = text("attlas-notice", "\n".join([*problems, "no store can be shown"]), width=900)
            return
        problems += self.state.read(from_search(search))
        self.bench = Bench(catalogue, self.state)
        self.bench.tell(*problems)
        self._write_address()
        self.state.param.watch(self._write_address, list(BenchState.ADDRESSED))
        self.bar.param.watch(lambda event: self._visit(event.new), "visited")

    def _write_address(self, *events: Any) -> None:
        if self.state is not None:
            step = bool(events) and not drawn_only(event.name for event in events)
            self.bar.param.update(step=step, search=to_search(self.state.address()))

    def _visit(self, search: str) -> None:
        if self.state is not None and self.bench is not None:
            self.bench.tell(*self.state.read(from_search(search)))

    def layout(self) -> Any:
        """Return the page's components."""
        pn.config.raw_css = [PAGE_STYLE]
        head = pn.Row(
            text("attlas-name", "attlas"),
            text("attlas-label", "attention of diffusion models, asked with the mouse", margin=(8, 0, 0, 12)),
            margin=(0, 0, 12, 0),
        )
        body = self.notice if self.bench is None else self.bench
        return pn.Column(head, body, self.bar, margin=(16, 24, 32, 24), css_classes=["attlas-page"])

    def close(self) -> None:
        """End the visit."""
        if self.bench is not None:
            self.bench.close()


def _first_state(catalogue: Catalogue, wanted: str | None) -> tuple[BenchState | None, list[str]]:
    """State on the wanted store, else on the first that opens; and what is wrong with those before it."""
    problems = list(catalogue.problems)
    names = sorted(catalogue.stores, key=lambda name: name != wanted)
    for name in names:
        try:
            return BenchState(catalogue, name), problems
        except AttlasError as err:
            problems.append(str(err))
    return None, problems


def page(stores: Iterable[str | Path]) -> Any:
    """Return a function that makes the page anew for each visit, to give to `panel.serve`.

    Parameters
    ----------
    stores
        Stores, folders of stores, URLs; looked up once.
    """
    pn.extension()
    catalogue = Catalogue(stores)

    def visit() -> Any:
        catalogue.refresh()
        location = pn.state.location
        made = Page(catalogue, (location.search or "") if location is not None else "")
        pn.state.on_session_destroyed(lambda _: made.close())
        return made.layout()

    return visit
