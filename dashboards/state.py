"""What the page shows, as one set of parameters: the same for widgets, clicks, the address bar and tests."""

from collections.abc import Iterable, Mapping
from typing import Any

import param

from attlas.dashboards.colours import COLOUR_MAPS
from attlas.dashboards.questions import MODES, Grid, Offer, Offers, Question
from attlas.schemas import DIRECTIONS
from attlas.schemas.errors import AttlasError, InvalidValueError, unknown_name

__all__ = ["MODES", "BenchState", "Offer", "Offers", "Question", "drawn_only"]

_NATURAL = {"patch": "g2r", "reference": "r2g", "word": "g2r", "map": "r2g"}
"""Direction in which each question is asked unless another is chosen: the one of the papers' maps."""

_DRAWN = ("threshold", "opacity", "colours", "shared")


class BenchState(param.Parameterized):  # type: ignore[misc]  # param has no types
    """State of the bench: which store, run and question, and how the answer is drawn.

    The parameters are constant: `change` alone sets them, all that depend on each other at once, so that a
    watcher never sees a run with the words of another. Values that were not named and do not fit any more move
    to the nearest that does.

    Examples
    --------
    >>> class Shelf:
    ...     stores = ("cats",)
    ...     def offer(self, store, run):
    ...         return Offer(("0000",), ("cond",), {"image": {"4x4": (4, 4)}}, {"image": (4, 4)})
    >>> state = BenchState(Shelf())
    >>> state.change(row=3, column=1)
    >>> state.question.patch, state.address()["row"]
    ((3, 1), '3')
    """

    store = param.String(default="", constant=True, doc="store that is looked at")
    run = param.String(default="", constant=True, doc="run of the store")
    mode = param.String(default="", constant=True, doc="where the question starts, one of MODES")
    kind = param.String(default="", constant=True, doc="kind of attention that is asked")
    grid = param.String(default="", constant=True, doc="query grid")
    direction = param.String(default="g2r", constant=True, doc="softmax over keys (g2r) or over queries (r2g)")
    branch = param.String(default="", constant=True, doc="guidance branch")
    row = param.Integer(default=0, constant=True, doc="row of the asked patch in its grid")
    column = param.Integer(default=0, constant=True, doc="column of the asked patch in its grid")
    word = param.String(default="", constant=True, doc="word of the prompt")
    map = param.String(default="", constant=True, doc="registered map of the run")
    threshold = param.Number(default=0.0, constant=True, doc="fraction of the map's range that is hidden")
    opacity = param.Number(default=0.85, constant=True, doc="opacity of the brightest value")
    colours = param.String(default=COLOUR_MAPS[0], constant=True, doc="colour map")
    shared = param.Boolean(default=False, constant=True, doc="one range for all tiles of a strip")

    ADDRESSED = (
        *("store", "run", "mode", "kind", "grid", "direction", "branch", "row", "column", "word", "map"),
        *_DRAWN,
    )
    """Parameters that the address bar holds, in the order in which they depend on each other."""

    def __init__(self, offers: Offers, store: str | None = None) -> None:
        super().__init__()
        self.offers = offers
        self.offered = Offer()
        self.change(store=store or next(iter(offers.stores), ""))

    @property
    def patch_grid(self) -> Grid:
        """Rows and columns of the grid in which the asked patch lies."""
        return _patch_grid(self.offered, self.mode, self.kind, self.grid)

    def grid_of(self, mode: str) -> Grid:
        """Grid of a patch if the question started as `mode` says: the grid that a click on that picture means.

        Raises
        ------
        InvalidValueError
            If no question starts there in this store.
        """
        if mode not in self.offered.modes:
            raise InvalidValueError(
                f"a {'reference' if mode == 'reference' else 'generated'} patch cannot be asked about here: "
                f"{self.store!r} was recorded without attention between patches; choose a word of the prompt"
            )
        kinds = self.offered.kinds(mode)
        kind = self.kind if self.kind in kinds else kinds[0]
        grids = self.offered.grids[kind]
        return _patch_grid(self.offered, mode, kind, self.grid if self.grid in grids else next(iter(grids)))

    @property
    def question(self) -> Question:
        """The question, without how its answer is drawn."""
        asks_patch = self.mode in ("patch", "reference")
        return Question(
            store=self.store,
            run=self.run,
            mode=self.mode,
            kind=self.kind,
            grid=self.grid,
            direction=self.direction,
            branch=self.branch,
            patch=(self.row, self.column) if asks_patch else None,
            word=self.word if self.mode == "word" else None,
            map=self.map if self.mode == "map" else None,
        )

    def change(self, **values: Any) -> None:
        """Set the named parameters, and move those that do not fit any more; all or nothing.

        Raises
        ------
        UnknownNameError
            If a store, run, mode, kind, grid, direction, branch, word or colour map is not accepted here.
        InvalidValueError
            If a patch is outside its grid, or a number outside its range.
        """
        now = {name: getattr(self, name) for name in self.ADDRESSED}
        for name in values:
            if name not in now:
                raise unknown_name("parameter", name, now)
        asked = now | values
        if "mode" not in values and "word" in values:
            asked["mode"] = "word"
        elif "mode" not in values and "map" in values:
            asked["mode"] = "map"
        elif "mode" not in values and self.mode in ("word", "map") and {"row", "column"} & values.keys():
            asked["mode"] = "patch"
        offer = self._offer(asked, values)
        self._choose(asked, values, offer)
        self._place(asked, values, offer, _patch_grid(self.offered, now["mode"], now["kind"], now["grid"]))
        _check_drawing(asked)
        self.offered = offer
        with param.edit_constant(self):
            self.param.update(**asked)

    def _offer(self, asked: dict[str, Any], values: Mapping[str, Any]) -> Offer:
        """Settle store and run, and return what they offer."""
        _fit("store", asked, values, self.offers.stores)
        offer = self.offers.offer(asked["store"], None)
        if not offer.runs:
            raise InvalidValueError(
                f"store {asked['store']!r} has no complete run; record one, or choose another store"
            )
        _fit("run", asked, values, offer.runs)
        return self.offers.offer(asked["store"], asked["run"])

    def _choose(self, asked: dict[str, Any], values: Mapping[str, Any], offer: Offer) -> None:
        """Settle mode, kind, grid, direction, branch, word and map, each by what those before it leave."""
        if not offer.modes:
            raise InvalidValueError(
                f"run {asked['run']!r} of {asked['store']!r} holds neither patch keys nor words; "
                "attention to text or to a reference image can be asked"
            )
        _fit("mode", asked, values, offer.modes)
        _fit("kind", asked, values, offer.kinds(asked["mode"]))
        _fit("grid", asked, values, tuple(offer.grids[asked["kind"]]))
        if asked["mode"] != self.mode and "direction" not in values:
            asked["direction"] = _NATURAL[asked["mode"]]
        _fit("direction", asked, values, DIRECTIONS)
        _fit("branch", asked, values, offer.branches_for(asked["mode"]))
        asked["word"] = asked["word"].lower()
        _fit("map", asked, values, offer.maps)
        words = offer.words.get(asked["branch"], ())
        _fit("word", asked, values, words, default=next((word for word in words if word in offer.nouns), None))

    def _place(self, asked: dict[str, Any], values: Mapping[str, Any], offer: Offer, old: Grid) -> None:
        """Settle the patch: a named one must lie in its grid, another keeps its place in the picture."""
        grid = _patch_grid(offer, asked["mode"], asked["kind"], asked["grid"])
        for name, size, before in zip(("row", "column"), grid, old, strict=True):
            if name in values:
                if not 0 <= asked[name] < size:
                    raise InvalidValueError(
                        f"{name} is {asked[name]}; 0 to {size - 1} is accepted in grid {asked['grid']}"
                    )
            elif not (before and self.run):
                asked[name] = size // 2
            elif before != size:
                asked[name] = min(size - 1, int((asked[name] + 0.5) * size / before))

    def address(self) -> dict[str, str]:
        """Every parameter as text, for the address bar, without those that the question does not use."""
        patch = {"row", "column"}
        silent = {"word": {*patch, "map"}, "map": {*patch, "word"}}.get(self.mode, {"word", "map"})
        return {name: _text(getattr(self, name)) for name in self.ADDRESSED if name not in silent}

    def read(self, address: Mapping[str, str]) -> list[str]:
        """Take over an address bar and return what in it is wrong, one line each; the rest is taken."""
        problems = [f"unknown parameter {name!r} in the address" for name in address if name not in self.ADDRESSED]
        for name in self.ADDRESSED:
            if name in address:
                try:
                    self.change(**{name: self._parse(name, address[name])})
                except AttlasError as err:
                    problems.append(str(err))
        return problems

    def _parse(self, name: str, text: str) -> Any:
        kind = type(self.param[name].default)
        if kind is bool:
            if text not in ("true", "false"):
                raise InvalidValueError(f"{name} is {text!r}; true or false is accepted")
            return text == "true"
        try:
            return kind(text)
        except ValueError as err:
            raise InvalidValueError(f"{name} is {text!r}; a number is accepted") from err


def drawn_only(names: Iterable[str]) -> bool:
    """Whether a change of these parameters leaves the question as it is, and only draws its answer otherwise."""
    return set(names) <= set(_DRAWN)


def _fit(
    name: str,
    asked: dict[str, Any],
    values: Mapping[str, Any],
    accepted: tuple[str, ...],
    default: str | None = None,
) -> None:
    """Keep an accepted value; refuse a named one that is not; move any other to the default or the first accepted."""
    if asked[name] in accepted:
        return
    if name in values and (values[name] or accepted):
        raise unknown_name(name, str(values[name]), accepted)
    asked[name] = default or (accepted[0] if accepted else "")


def _patch_grid(offer: Offer, mode: str, kind: str, grid: str) -> Grid:
    if mode == "reference":
        return offer.key_grids[kind]
    return offer.grids.get(kind, {}).get(grid, (0, 0))


def _check_drawing(asked: Mapping[str, Any]) -> None:
    for name in ("threshold", "opacity"):
        if not 0 <= asked[name] <= 1:
            raise InvalidValueError(f"{name} is {asked[name]!r}; 0 to 1 is accepted")
    if asked["colours"] not in COLOUR_MAPS:
        raise unknown_name("colour map", asked["colours"], COLOUR_MAPS)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)
