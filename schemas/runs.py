"""What a run says that it has."""

import json

from attlas.schemas.errors import CorruptDataError

__all__ = ["holds_of"]


def holds_of(text: str, where: str) -> frozenset[str]:
    """Read an entry of the column ``holds``.

    Examples
    --------
    >>> sorted(holds_of('["annotations/mask", "generated_image"]', "a test"))
    ['annotations/mask', 'generated_image']
    """
    try:
        names = json.loads(text or "[]")
    except ValueError as err:
        raise CorruptDataError(f"{where} is no list of names: {err}") from err
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CorruptDataError(f"{where} is no list of names: {text[:80]!r}")
    return frozenset(names)
