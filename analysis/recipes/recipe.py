"""What a recipe is: a function from traces to tables, figures and notes, with what it needs of its stores."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from attlas.analysis.recipes.tables import Table
from attlas.analysis.roles import names_by_role
from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError, NotRecordedError, unknown_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DEMO_STORES", "Need", "Recipe", "RecipeResult", "Table", "recipe"]

DEMO_STORES = {
    "shapes": "shapes.zarr",
    "shapes-random": "baselines/shapes-random.zarr",
    "tryon": "tryon.zarr",
    "tryon-random": "baselines/tryon-random.zarr",
    "tryon-swapped": "baselines/tryon-swapped.zarr",
    "tryon-refined": "tryon-refined.zarr",
    "tryon-control": "baselines/tryon-control.zarr",
    "tryon-guided": "tryon-guided.zarr",
}
"""Where `attlas demo` puts each of its stores, under its folder."""

KINDS = {"shapes": ("text", "joint"), "tryon": ("image", "joint")}


@dataclass(frozen=True)
class Need:
    """What a recipe needs of one of its stores.

    Attributes
    ----------
    name
        The demo store that has it, of `DEMO_STORES`; a store of your own serves as well if it has what follows.
    kinds
        Kinds of attention, any of which will do; by default text for ``shapes``, reference for ``tryon``.
    roles
        Roles of annotations that must have been given while recording.
    full
        Whether the full arrays are needed, not the summary alone.
    """

    name: str
    kinds: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    full: bool = False

    def __post_init__(self) -> None:
        """Refuse a store that the demo does not make."""
        if self.name not in DEMO_STORES:
            raise unknown_name("demo store", self.name, DEMO_STORES)
        if not self.kinds:
            object.__setattr__(self, "kinds", KINDS[self.name.partition("-")[0]])

    def __str__(self) -> str:
        """Words of the need."""
        given = f", roles {', '.join(self.roles)}" if self.roles else ""
        return f"{self.name}: attention of kind {' or '.join(self.kinds)}{', full arrays' if self.full else ''}{given}"

    def lacking(self, trace: Trace) -> list[str]:
        """Say what `trace` lacks, in words that tell what to record."""
        leaves = [leaf for leaf in trace.leaves.values() if leaf.kind in self.kinds]
        if not leaves:
            return [
                f"attention of kind {' or '.join(self.kinds)} (it holds {', '.join(trace.kinds)}); record with --kinds"
            ]
        given = names_by_role(trace)
        missing = [f"an annotation with the role {role!r}" for role in self.roles if role not in given]
        if self.full and all(leaf.encoding == "none" for leaf in leaves):
            missing.append("full arrays (it holds summaries only); record with --detail full")
        return missing


@dataclass(frozen=True)
class RecipeResult:
    """What a recipe made.

    Attributes
    ----------
    tables
        In order; a column ``paper`` stands beside ours.
    figures
        Matplotlib figures by name, in order; a name is the figure's caption.
    notes
        What a reader must know, first of all where the models are not comparable.
    settings
        Model, scheduler, steps, calls, seeds, branch, layers, direction and every rule; see `settings_of`.
    recipe, title
        Filled in by the recipe.
    """

    tables: Sequence[Table]
    figures: Mapping[str, "Figure"] = field(default_factory=dict)
    notes: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = ""
    title: str = ""

    def __str__(self) -> str:
        """Tables, notes and settings as text."""
        parts = [f"{self.recipe}: {self.title}"] if self.recipe else []
        parts += [str(table) for table in self.tables]
        if self.figures:
            parts.append("figures\n" + "\n".join(f"  {n}. {name}" for n, name in enumerate(self.figures, 1)))
        if self.notes:
            parts.append("notes\n" + "\n".join(f"  * {note}" for note in self.notes))
        if self.settings:
            parts.append("settings\n" + "\n".join(f"  {name}: {value}" for name, value in self.settings.items()))
        return "\n\n".join(parts)

    def save(self, folder: str | Path, *, dpi: int = 300) -> Path:
        """Write everything into ``folder/RECIPE/``; see `attlas.analysis.recipes.written.save`."""
        from attlas.analysis.recipes.written import save

        return save(self, folder, dpi=dpi)


class RecipeFunction(Protocol):
    """What `recipe` decorates."""

    __name__: str

    def __call__(self, traces: Sequence[Trace], *, progress: bool = True) -> RecipeResult:
        """Make tables and figures of `traces`."""
        ...


@dataclass(frozen=True)
class Recipe:
    """A paper's table or figure; calling it checks the traces and runs it.

    Attributes
    ----------
    name, title, paper
        Name on the command line, one line of what it shows, and where it is printed.
    stores, optional
        What it needs of each trace, in the order in which they are given, and of further ones that it can use.
    comparable
        Whether the paper's numbers can be held against ours; the notes say why not.
    """

    name: str
    title: str
    paper: str
    stores: tuple[Need, ...]
    optional: tuple[Need, ...]
    comparable: bool
    function: Callable[..., RecipeResult]

    @property
    def options(self) -> dict[str, Any]:
        """Names and defaults of the options of its function."""
        known = inspect.signature(self.function).parameters.values()
        return {own.name: own.default for own in known if own.kind is own.KEYWORD_ONLY and own.name != "progress"}

    def __call__(self, traces: Sequence[Trace], *, progress: bool = True, **options: Any) -> RecipeResult:
        """Check the traces and options, and run; errors as in `attlas.analysis.recipes.run`."""
        for option in options:
            if option not in self.options:
                raise unknown_name("option", option, self.options, where=f"recipe {self.name}")
        self.check(traces)
        made = self.function(traces, progress=progress, **options)
        return replace(made, recipe=self.name, title=f"{self.paper}. {self.title}")

    def check(self, traces: Sequence[Trace]) -> None:
        """Refuse traces that lack what is needed, before any work."""
        wanted = (*self.stores, *self.optional)
        least, most = len(self.stores), len(wanted)
        if not least <= len(traces) <= most:
            count = f"{least}" if least == most else f"{least} to {most}"
            listed = "".join(f"\n  {place}. {need}" for place, need in enumerate(wanted, 1))
            raise InvalidValueError(
                f"recipe {self.name} takes {count} stores, got {len(traces)}; in this order:{listed}"
            )
        for need, trace in zip(wanted, traces, strict=False):
            if not trace.run_ids:
                raise InvalidValueError(f"{trace.where} has no complete run; recipe {self.name} needs {need}")
            lacking = need.lacking(trace)
            if lacking:
                listed = "".join(f"\n  {line}" for line in lacking)
                raise NotRecordedError(f"recipe {self.name} needs {need}\n{trace.where} lacks{listed}")


def recipe(
    name: str,
    *,
    title: str,
    paper: str,
    stores: Sequence[Need | str],
    optional: Sequence[Need | str] = (),
    comparable: bool,
) -> Callable[[Callable[..., RecipeResult]], Recipe]:
    """Make a recipe of ``function(traces, *, progress=True, **options) -> RecipeResult``.

    Parameters are `Recipe`'s attributes; a store may be given by its demo name alone. A recipe is found by `find` and
    the command line once its place is in `attlas.analysis.recipes.RECIPES`.

    Examples
    --------
    >>> @recipe("count", title="How many runs", paper="none", stores=("shapes",), comparable=False)
    ... def count(traces, *, progress=True):
    ...     return RecipeResult([Table("runs", ("store", "runs"), [("a", len(traces[0].run_ids))])])
    >>> from attlas.analysis import open_trace
    >>> from attlas.schemas import simulate_store
    >>> print(count([open_trace(simulate_store(runs=2))]))
    count: none. How many runs
    <BLANKLINE>
    runs
      store  runs
      a         2
    """

    def made(function: Callable[..., RecipeResult]) -> Recipe:
        needs, further = (
            tuple(own if isinstance(own, Need) else Need(own) for own in given) for given in (stores, optional)
        )
        return Recipe(name, title, paper, needs, further, comparable, function)

    return made
