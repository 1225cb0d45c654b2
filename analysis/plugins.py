"""Statistics and maps of modules and files that are in no installed package."""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from attlas.schemas.errors import InvalidValueError

__all__ = ["load_plugins"]


def load_plugins(places: Iterable[str | Path]) -> list[ModuleType]:
    """Import modules by name, or files by path, whose decorators register what they have.

    A file is run as it is: load only what you trust.

    Raises
    ------
    InvalidValueError
        If there is no such file or module.
    """
    return [_file(Path(place)) if str(place).endswith(".py") else _module(str(place)) for place in places]


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as err:
        if err.name is None or not (name == err.name or name.startswith(f"{err.name}.")):
            raise
        raise InvalidValueError(
            f"plugin {name!r}: there is no such module; give a module that Python finds, or a path that ends in .py"
        ) from err


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InvalidValueError(f"plugin {path}: there is no such file")
    whole = path.resolve()
    # Two files of one name are two modules.
    name = f"attlas_plugin_{whole.stem}_{hashlib.sha256(str(whole).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, whole)
    if spec is None or spec.loader is None:
        raise InvalidValueError(f"plugin {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _by_value(module)
    return module


def _by_value(module: ModuleType) -> None:
    """Send its functions whole to workers, which do not have the file under this name."""
    import cloudpickle

    cloudpickle.register_pickle_by_value(module)
