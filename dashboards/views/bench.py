"""The bench: one run, and answers to what a person points at."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import panel as pn
import xarray as xr

from attlas.dashboards import plots
from attlas.dashboards.data import STRIPS, Answer, Catalogue
from attlas.dashboards.labels import call_label, layer_labels
from attlas.dashboards.state import BenchState, Question
from attlas.dashboards.views.controls import Controls
from attlas.dashboards.views.downloads import Downloads
from attlas.dashboards.views.pictures import PicturePane, StripPane
from attlas.dashboards.views.prompt import PromptLine
from attlas.dashboards.views.runs import RunShelf
from attlas.dashboards.views.style import BUTTONS, card, say, text
from attlas.schemas.errors import AttlasError

__all__ = ["Bench"]

PATIENCE = 150
"""Milliseconds that a question must stand before its strips are computed."""

STRIP_TITLES = {
    "t": "Time: groups of denoiser calls, the noisiest first",
    "head": "Heads",
    "layer": "Layers",
}


class Bench(pn.viewable.Viewer):  # type: ignore[misc]  # panel has no types
    """First page: pictures, prompt, answer and strips of one run, kept in step with a `BenchState`.

    Parameters
    ----------
    catalogue
        Where the data comes from.
    state
        What is shown; clicks and widgets change it, and it may be changed from outside.
    """

    def __init__(self, catalogue: Catalogue, state: BenchState, **params: Any) -> None:
        super().__init__(**params)
        self.catalogue, self.state = catalogue, state
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="attlas-strips")
        wide: dict[str, Any] = {"sizing_mode": "stretch_width"}
        self.notice = text("attlas-notice", margin=(0, 0, 10, 0), **wide)
        self.readout = text("attlas-readout", margin=(10, 0, 0, 0), **wide)
        self.code = text("attlas-code", margin=(8, 0, 0, 0), **wide)
        self.show_code = pn.widgets.Toggle(label="Python of this view", margin=0, stylesheets=[BUTTONS])
        self.generated = PicturePane("attlas-generated", partial(self._tapped, "patch"))
        self.reference = PicturePane("attlas-reference", partial(self._tapped, "reference"))
        self.titles = {side: text("attlas-label", margin=(0, 0, 4, 0)) for side in ("generated", "reference")}
        self.downloads = Downloads(catalogue, state)
        self.strips = {dim: StripPane(title, f"attlas-strip-{dim}") for dim, title in STRIP_TITLES.items()}
        self.controls = Controls(lambda name, value: self.change(**{name: value}))
        self.runs = RunShelf(catalogue, lambda run: self.change(run=run))
        self.prompt = PromptLine(lambda word: self.change(word=word))
        self.show_code.param.watch(lambda _: self._show_code(), "value")
        state.param.watch(lambda *_: self.refresh(), list(BenchState.ADDRESSED))
        self.refresh()

    # From the person to the state -------------------------------------------------------------------------

    def change(self, **values: Any) -> None:
        """Change the state; where it is refused, say why on the page and leave all as it was."""
        self.tell()
        try:
            self.state.change(**values)
        except AttlasError as err:
            self.tell(str(err))
            self.controls.show(self.state)

    def tell(self, *problems: str) -> None:
        """Show problems at the top of the page, as text; none hides the notice."""
        say(self.notice, "\n".join(problem for problem in problems if problem))

    def _tapped(self, mode: str, x: float, y: float) -> None:
        pane = self.generated if mode == "patch" else self.reference
        try:
            row, column = plots.patch_at(x, y, pane.extent, self.state.grid_of(mode))
        except AttlasError as err:
            self.tell(str(err))
            return
        self.change(mode=mode, row=row, column=column)

    # From the state to the page ---------------------------------------------------------------------------

    def refresh(self) -> None:
        """Draw the state: at once what was asked, then the strips."""
        state = self.state
        self.controls.show(state)
        self.runs.show(state.store, state.run)
        self.prompt.show(self.catalogue.trace(state.store, state.run), state)
        question = state.question
        try:
            answer = self.catalogue.answer(question, state.patch_grid)
        except AttlasError as err:
            self._draw(None)
            self.downloads.allow(answer=False, time=False)
            self.tell(str(err))
            return
        self._draw(answer)
        self._show_code()
        self._later(question)

    def _draw(self, answer: Answer | None) -> None:
        state = self.state
        style = {"colours": state.colours, "opacity": state.opacity, "threshold": state.threshold}
        origin = {"patch": "generated", "reference": "reference"}.get(state.mode, "")
        for side, pane in (("generated", self.generated), ("reference", self.reference)):
            image = self._picture(side)
            lit = answer.attention if answer is not None and answer.side == side else None
            patch: tuple[int, int] | None = None
            grid = (1, 1)
            if side == origin:
                patch, grid = (state.row, state.column), state.patch_grid
            elif lit is not None and state.mode not in ("word", "map"):
                patch, grid = plots.brightest(lit)[:2], (lit.shape[0], lit.shape[1])
            pane.show(image, lit, patch=patch, grid=grid, **style)
            say(self.titles[side], _title(side, image is not None, side == origin, lit is not None))
        say(self.readout, _readout(state, answer) if answer is not None else "")

    def _picture(self, side: str) -> xr.DataArray | None:
        """Picture of the run; None where there is none, or it cannot be read, which is said."""
        try:
            return self.catalogue.picture(self.state.store, self.state.run, side)
        except AttlasError as err:
            self.tell(str(err))
            return None

    def _show_code(self) -> None:
        say(self.code, self.catalogue.python(self.state) if self.show_code.value else "")

    def _later(self, question: Question) -> None:
        """Compute the strips beside the page's own thread, so that the next click does not wait for them."""
        document, grid = pn.state.curdoc, self.state.patch_grid
        if document is None:
            self._draw_strips(question, self._strips(question, grid))
            return

        def work() -> None:
            made = self._strips(question, grid)
            document.add_next_tick_callback(partial(self._draw_strips, question, made))

        def begin() -> None:
            if question == self.state.question:
                self._worker.submit(work)

        # The answer goes out first, and a person who clicks on does not pay for strips that nobody will see.
        document.add_timeout_callback(begin, PATIENCE)

    def _strips(self, question: Question, grid: tuple[int, int]) -> dict[str, xr.DataArray | str]:
        """Return the maps of every strip, or why there are none."""
        made: dict[str, xr.DataArray | str] = {}
        for dim in STRIPS:
            try:
                made[dim] = self.catalogue.strip(question, grid, dim)
            except AttlasError as err:
                made[dim] = str(err)
        return made

    def _draw_strips(self, question: Question, made: dict[str, xr.DataArray | str]) -> None:
        state = self.state
        if question != state.question:
            return
        self.downloads.allow(answer=True, time=not isinstance(made["t"], str))
        side = self.catalogue.side(question)
        image = self._picture(side)
        for dim, maps in made.items():
            if isinstance(maps, str):
                self.strips[dim].say(maps)
                continue
            extent = image.shape[:2] if image is not None else maps.shape[1:]
            tiles = plots.tile_layout(maps.sizes[dim], (extent[0], extent[1]))
            element = plots.strip(
                maps,
                dim,
                labels=_labels(maps, dim),
                image=image,
                colours=state.colours,
                opacity=state.opacity,
                threshold=state.threshold,
                shared=state.shared,
            )
            self.strips[dim].show(element, tiles.extent)

    def close(self) -> None:
        """Let the thread go that computes strips."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    def __panel__(self) -> Any:
        """Lay the page out: what is looked at on the left, pictures and strips on the right."""
        left = card(
            self.controls.widgets["store"],
            text("attlas-label", "Runs", margin=(6, 0, 4, 0)),
            self.runs.box,
            self.controls.widgets["map"],
            *self.controls.groups.values(),
            *(self.controls.widgets[name] for name in ("threshold", "opacity", "colours", "shared")),
            width=290,
            margin=(0, 16, 0, 0),
        )
        pictures = pn.Row(
            pn.Column(self.titles["generated"], self.generated.pane, margin=(0, 24, 0, 0)),
            pn.Column(self.titles["reference"], self.reference.pane, margin=0),
            margin=0,
        )
        right = card(
            self.notice,
            self.prompt.line,
            pictures,
            self.readout,
            *(self.strips[dim].box for dim in STRIPS),
            pn.Row(self.show_code, *self.downloads.buttons, margin=(16, 0, 0, 0)),
            self.code,
            width=1000,
            margin=0,
        )
        return pn.Row(left, right, css_classes=["attlas-bench"], margin=0)


def _title(side: str, shown: bool, asked: bool, lit: bool) -> str:
    if not shown:
        return ""
    role = " (asked and answer)" if asked and lit else " (asked)" if asked else " (answer)" if lit else ""
    return f"{'Generated image' if side == 'generated' else 'Reference image'}{role}"


def _readout(state: BenchState, answer: Answer) -> str:
    row, column, value = plots.brightest(answer.attention)
    asked = {
        "patch": f"generated patch ({state.row}, {state.column})",
        "reference": f"reference patch ({state.row}, {state.column})",
        "word": f"word {state.word!r}",
        "map": f"map {state.map!r}",
    }[state.mode]
    # The weight of a patch is a mean probability; a word map is a sum, whose value says little by itself.
    weight = "" if state.mode in ("word", "map") else f", weight {value:.3g}"
    return f"{asked}: brightest {answer.side} patch ({row}, {column}){weight}"


def _labels(maps: xr.DataArray, dim: str) -> list[str]:
    if dim == "t":
        return [call_label(int(a), int(b)) for a, b in zip(maps["first"].values, maps["last"].values, strict=True)]
    if dim == "head":
        return [f"head {head}" for head in maps["head"].values]
    return layer_labels([str(path) for path in maps["layer"].values])
