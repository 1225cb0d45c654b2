"""What is asked of a survey: statistics and maps by name, by name with options, or as functions."""

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import xarray as xr

from attlas.analysis.registry import Registered, check_options, map_of, statistic_of
from attlas.analysis.surveys.digest import attlas_version, digest_of, plain_options
from attlas.schemas.errors import InvalidValueError

__all__ = ["Asked", "Spec", "read_specs", "read_text"]

Function = Callable[..., xr.DataArray]
Asked = str | Function | tuple[str | Function, Mapping[str, Any]]


@dataclass(frozen=True)
class Spec:
    """One statistic or map with its options.

    ``label`` is its name in the result. ``digest`` is None where its numbers cannot be kept; ``reason`` says why.
    """

    label: str
    name: str
    function: Function
    options: Mapping[str, Any] = field(default_factory=dict)
    units: str = "1"
    meaning: str = ""
    version: str = "1"
    source: str = ""
    is_map: bool = False
    digest: str | None = None
    reason: str = ""

    @property
    def node(self) -> str:
        """Name of its group in a store."""
        return f"{self.name}-{self.digest}"

    @property
    def provenance(self) -> dict[str, Any]:
        """What it is, as plain values."""
        return {
            "statistic": self.name,
            "options": _told(self.options),
            "digest": self.digest or "",
            "version": self.version,
            "attlas": attlas_version(),
            "units": self.units,
            "meaning": self.meaning,
            "source": self.source,
        }


def read_specs(
    asked: Asked | Iterable[Asked] | Mapping[str, Mapping[str, Any]], *, maps: bool = False
) -> tuple[Spec, ...]:
    """Look every statistic (or map) up and check its options.

    Raises
    ------
    UnknownNameError
        For an unknown name or option, with the close ones.
    InvalidValueError
        If an option is lacking, or two have one label.
    """
    one = isinstance(asked, str) or callable(asked) or _is_pair(asked)
    listed: list[Any] = list(asked.items()) if isinstance(asked, Mapping) else [asked] if one else list(asked)  # type: ignore[arg-type]
    specs = tuple(_spec(entry, maps=maps) for entry in listed)
    labels = [spec.label for spec in specs]
    for label in labels:
        if labels.count(label) > 1:
            raise InvalidValueError(f"{label!r} is asked twice; give different options, or ask once")
    return specs


def _is_pair(asked: Any) -> bool:
    return isinstance(asked, tuple) and len(asked) == 2 and isinstance(asked[1], Mapping)


def read_text(text: str) -> tuple[str, str, dict[str, Any]]:
    """Name, value without a name, and options of a text such as ``imacs_r:penalty=2,layers=16x16``.

    A value is read as JSON where it is some, else as text.

    Examples
    --------
    >>> read_text("imacs_r:penalty=2,layers=16x16")
    ('imacs_r', '', {'penalty': 2, 'layers': '16x16'})
    >>> read_text("annotation:quality")
    ('annotation', 'quality', {})
    """
    name, _, rest = text.partition(":")
    bare, options = "", {}
    for part in rest.split(",") if rest else []:
        key, equals, value = part.partition("=")
        if not equals:
            bare = part.strip()
            continue
        try:
            options[key.strip()] = json.loads(value)
        except json.JSONDecodeError:
            options[key.strip()] = value.strip()
    return name.strip(), bare, options


def _spec(entry: Any, *, maps: bool) -> Spec:
    asked, given = entry if _is_pair(entry) else (entry, {})
    if callable(asked):
        name = getattr(asked, "__name__", type(asked).__name__).strip("<>")
        doc = (inspect.getdoc(asked) or "").partition("\n")[0].rstrip(".")
        made = Registered(name, asked, "1", doc, "1", getattr(asked, "__module__", ""))
        label, options = name, dict(given)
    elif isinstance(asked, str):
        name, bare, told = read_text(asked)
        made = map_of(name) if maps else statistic_of(name)
        options = {**told, **given}
        if bare:
            first = next((own for own in made.options if own not in options), None)
            if first is None:
                raise InvalidValueError(f"{asked!r}: {name!r} takes no option for {bare!r}")
            options[first] = bare
        label = bare if bare and len(options) == 1 else asked
    else:
        raise InvalidValueError(
            f"{entry!r} is no statistic; a name, a function, or either with its options as (name, {{...}}) is accepted"
        )
    check_options(made, options, "map" if maps else "statistic")
    digest, reason = None, "maps are not kept, only their sums" if maps else ""
    if not maps:
        try:
            digest = digest_of(made.function, options, made.version)
        except InvalidValueError as err:
            reason = str(err)
    return Spec(
        label.replace("/", " "), made.name, made.function, options, made.units, made.meaning, made.version, made.source,
        maps, digest, reason,
    )  # fmt: skip


def _told(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as plain values; what is none, by its type."""
    made: dict[str, Any] = {}
    for name, value in options.items():
        try:
            made |= plain_options({name: value})
        except InvalidValueError:
            made[name] = f"a {type(value).__name__}"
    return made
