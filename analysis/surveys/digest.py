"""Which code a number came from: a digest of a function and of what it calls in its own package."""

import hashlib
import inspect
import json
import textwrap
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from types import CodeType, FunctionType, ModuleType
from typing import Any

from attlas.schemas.errors import InvalidValueError

__all__ = ["attlas_version", "digest_of", "plain_options"]

_PLAIN = (str, int, float, bool, bytes, type(None))


def digest_of(function: Callable[..., Any], options: Mapping[str, Any], version: str) -> str:
    """Digest of a function's source, of the functions of its package that it calls by name, and of its options.

    Twelve hexadecimal digits. Change any of these, or attlas, and the digest is another.

    Raises
    ------
    InvalidValueError
        If the source cannot be read, or the function or its options hold what is no plain value; the message says what.
    """
    told = {
        "source": list(_sources(inspect.unwrap(function), set())),
        "options": plain_options(options),
        "version": version,
        "attlas": attlas_version(),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def plain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON holds them; `InvalidValueError` where one is an array or another object."""
    made = {}
    for name, value in options.items():
        if not _is_plain(value):
            raise InvalidValueError(f"option {name!r} is {type(value).__name__}, which is no plain value")
        made[name] = json.loads(json.dumps(value))
    return made


@lru_cache(maxsize=1)
def attlas_version() -> str:
    """Version of attlas; ``unknown`` where it runs without being installed."""
    try:
        return version("attlas")
    except PackageNotFoundError:
        return "unknown"


def _sources(function: Any, seen: set[int]) -> Iterator[str]:
    """Give the sources of a function and of what it reaches by name in its own package, each once."""
    if id(function) in seen:
        return
    seen.add(id(function))
    try:
        text = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError) as err:
        raise InvalidValueError(f"the source of {getattr(function, '__name__', function)!r} cannot be read") from err
    yield text
    if not isinstance(function, FunctionType):
        return
    held = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    for name, cell in held.items():
        yield from _value(function, name, cell.cell_contents, seen)
    root = function.__module__.partition(".")[0]
    names = set(_names(function.__code__))
    for name in sorted(names & function.__globals__.keys()):
        value = function.__globals__[name]
        own = _attributes(value, names, root) if isinstance(value, ModuleType) else [value]
        for part in own:
            if isinstance(part, FunctionType) and part.__module__.partition(".")[0] == root:
                yield from _sources(inspect.unwrap(part), seen)
            elif _is_plain(part):
                yield f"{name} = {part!r}"


def _attributes(module: ModuleType, names: set[str], root: str) -> list[Any]:
    """Functions of a module of the same package that are reached by name."""
    if module.__name__.partition(".")[0] != root:
        return []
    return [value for name in sorted(names) if isinstance(value := getattr(module, name, None), FunctionType)]


def _value(function: FunctionType, name: str, value: Any, seen: set[int]) -> Iterator[str]:
    """Say what a function closes over; what is neither plain nor a function cannot be told apart."""
    if isinstance(value, FunctionType):
        yield from _sources(value, seen)
    elif _is_plain(value):
        yield f"{name} = {value!r}"
    else:
        raise InvalidValueError(
            f"{function.__name__!r} closes over {name!r}, a {type(value).__name__}: give it as an option, or register "
            "a function of a module"
        )


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(part) for part in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(part) for key, part in value.items())
    return isinstance(value, _PLAIN)
