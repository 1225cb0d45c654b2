"""Statistics and maps by name: those of attlas, those of installed packages, and yours."""

import importlib
import inspect
import pkgutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from types import MappingProxyType, ModuleType
from typing import Any, TypeVar

import xarray as xr

from attlas.schemas.errors import InvalidValueError, UnknownNameError, unknown_name

__all__ = [
    "BrokenPluginWarning",
    "Registered",
    "check_options",
    "map_function",
    "map_functions",
    "map_of",
    "statistic",
    "statistic_of",
    "statistics",
]

Function = Callable[..., xr.DataArray]
F = TypeVar("F", bound=Function)


class BrokenPluginWarning(UserWarning):
    """An installed package offers a statistic or map that cannot be loaded; fix or uninstall it."""


@dataclass(frozen=True)
class Registered:
    """One statistic or map: how it is called, what it means, and where it comes from.

    ``source`` is the module that defines the function, or the package that an entry point belongs to.
    """

    name: str
    function: Function
    units: str
    meaning: str
    version: str
    source: str

    @property
    def options(self) -> Mapping[str, Any]:
        """Options of the function and their defaults; `inspect.Parameter.empty` where one must be given."""
        parameters = list(inspect.signature(self.function).parameters.values())[1:]
        return {own.name: own.default for own in parameters if own.kind not in (own.VAR_KEYWORD, own.VAR_POSITIONAL)}

    @property
    def takes_any(self) -> bool:
        """Whether the function passes further options on (``**options``)."""
        return any(own.kind == own.VAR_KEYWORD for own in inspect.signature(self.function).parameters.values())


@dataclass
class _Registry:
    """Names of one sort; the entry points of its group are loaded at the first look-up."""

    what: str
    group: str
    entries: dict[str, Registered] = field(default_factory=dict)
    ready: bool = False

    def add(self, made: Registered) -> None:
        if not made.name or not all(part.isidentifier() for part in made.name.split("-")):
            raise InvalidValueError(
                f"{self.what} cannot be named {made.name!r}; words joined by - or _ are accepted, such as 'my_score'"
            )
        if not list(inspect.signature(made.function).parameters):
            raise InvalidValueError(f"{self.what} {made.name!r} takes no argument; its first must be the trace")
        known = self.entries.get(made.name)
        if known is not None and not _same_place(known.function, made.function):
            raise InvalidValueError(
                f"{self.what} {made.name!r} of {made.source} is registered already, by {known.source}; "
                "choose another name"
            )
        self.entries[made.name] = made

    def load(self) -> Mapping[str, Registered]:
        if not self.ready:
            self.ready = True  # before loading: what is loaded may look up names itself
            package = importlib.import_module("attlas.analysis.statistics")
            for info in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{package.__name__}.{info.name}")
            for point in sorted(entry_points(group=self.group), key=lambda point: point.name):
                self._load_point(point)
        return MappingProxyType(self.entries)

    def _load_point(self, point: Any) -> None:
        source = f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value
        try:
            loaded = point.load()
            if isinstance(loaded, ModuleType):
                return  # its decorators have registered what it has
            own = [made for made in self.entries.values() if made.function is loaded]
            for made in own:
                self.entries[made.name] = replace(made, source=source)
            if not own:
                self.add(Registered(point.name, loaded, "1", _first_line(loaded), "1", source))
        except (ImportError, AttributeError, SyntaxError, TypeError, ValueError) as err:
            warnings.warn(
                f"{self.what} {point.name!r} of {source} cannot be loaded: {err}; fix or uninstall that package",
                BrokenPluginWarning,
                stacklevel=4,
            )

    def of(self, name: str) -> Registered:
        known = self.load()
        if name not in known:
            raise unknown_name(self.what, name, known)
        return known[name]


_STATISTICS = _Registry("statistic", "attlas.statistics")
_MAPS = _Registry("map", "attlas.maps")


def statistic(name: str, *, units: str = "1", meaning: str = "", version: str = "1") -> Callable[[F], F]:
    """Register a function of a trace that gives numbers for each run, under `name`.

    The function takes a `Trace` and any options by keyword, and returns a DataArray whose first dim is ``run``;
    further dims (``layer``, ``head``, ``t``, ``word``, ...) have coordinates. It may be lazy. NaN means not defined
    for that run: it does not count. The decorator returns the function unchanged.

    Parameters
    ----------
    name
        How `survey` and the command line call it.
    units, meaning
        Unit of the numbers, and what they say in a few words; by default the first line of its docstring.
    version
        Change it to have cached results computed anew where the source does not show the change.

    Raises
    ------
    InvalidValueError
        If another function has the name already, or the name is not made of words.

    Examples
    --------
    A function for a notebook; in a package, name it under the entry-point group ``attlas.statistics`` too.

    >>> @statistic("brightness", units="1", meaning="mean of the picture")
    ... def brightness(trace):
    ...     return trace.images.mean(("image_y", "image_x", "rgb")) / 255
    >>> statistic_of("brightness").meaning
    'mean of the picture'
    """
    return _decorator(_STATISTICS, name, units, meaning, version)


def map_function(name: str, *, units: str = "1", meaning: str = "", version: str = "1") -> Callable[[F], F]:
    """Register a function of a trace that gives maps for each run, under `name`.

    As `statistic`, but the last two dims are rows and columns: ``(run, ..., rows, columns)``. Maps on the query grid
    name them ``query_y`` and ``query_x``, maps on the reference ``key_y`` and ``key_x``. In a package the entry-point
    group is ``attlas.maps``.

    Examples
    --------
    >>> @map_function("squared-ulam", meaning="square of the ULAM")
    ... def squared(trace, direction="r2g"):
    ...     from attlas.analysis import maps
    ...     return maps.ulam(trace, direction) ** 2
    >>> dict(map_of("squared-ulam").options)
    {'direction': 'r2g'}
    """
    return _decorator(_MAPS, name, units, meaning, version)


def statistics() -> Mapping[str, Registered]:
    """All statistics by name: attlas's own, those of installed packages, and those registered in this session."""
    return _STATISTICS.load()


def map_functions() -> Mapping[str, Registered]:
    """All maps by name, as `statistics`."""
    return _MAPS.load()


def statistic_of(name: str) -> Registered:
    """Return the statistic of that name; `UnknownNameError` with the close names if there is none.

    Examples
    --------
    >>> statistic_of("pck1").units
    '1'
    """
    return _STATISTICS.of(name)


def map_of(name: str) -> Registered:
    """Return the map of that name; `UnknownNameError` with the close names if there is none."""
    return _MAPS.of(name)


def check_options(made: Registered, options: Mapping[str, Any], what: str = "statistic") -> None:
    """Raise `UnknownNameError` for an option that is not taken, or `InvalidValueError` for one that is needed."""
    known = made.options
    for name in options:
        if name not in known and not made.takes_any:
            raise UnknownNameError(str(unknown_name("option", name, known, where=f"{what} {made.name!r}")))
    for name, default in known.items():
        if default is inspect.Parameter.empty and name not in options:
            raise InvalidValueError(f"{what} {made.name!r} needs the option {name!r}")


def _decorator(registry: _Registry, name: str, units: str, meaning: str, version: str) -> Callable[[F], F]:
    def register(function: F) -> F:
        said = meaning or _first_line(function)
        registry.add(Registered(name, function, units, said, version, function.__module__))
        return function

    return register


def _first_line(function: Any) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0].rstrip(".")


def _same_place(one: Function, other: Function) -> bool:
    """Whether a cell or module was run again: the same function, made anew."""
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)
