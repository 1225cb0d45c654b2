"""The small language of the shapes world: its words, its captions, and how a caption is read back."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["COLOURS", "MAX_OBJECTS", "NOUNS", "Mention", "caption", "mentions"]

NOUNS = ("disc", "triangle", "ring", "cross")

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 44, 44),
    "green": (40, 168, 62),
    "blue": (44, 84, 226),
    "yellow": (238, 206, 40),
    "cyan": (44, 200, 216),
    "purple": (158, 52, 196),
}

MAX_OBJECTS = 2


@dataclass(frozen=True)
class Mention:
    """One object of a caption: its noun, and its colour where the caption names one."""

    noun: str
    colour: str | None


def caption(objects: Sequence[Mention]) -> str:
    """Say the objects in their order.

    Parameters
    ----------
    objects : sequence of Mention
        One or two objects.

    Returns
    -------
    str
        Such as ``"a red disc and a cross"``.
    """
    return " and ".join(f"a {item.colour} {item.noun}" if item.colour else f"a {item.noun}" for item in objects)


def mentions(prompt: str) -> list[Mention]:
    """Read the objects of a prompt, in their order.

    A colour belongs to the noun that follows it, as in ``"a red disc and a cross"``.

    Parameters
    ----------
    prompt : str
        Any text; words that are neither a colour nor a noun are passed over.

    Returns
    -------
    list of Mention
        At most two, all with different nouns.

    Raises
    ------
    ValueError
        If the prompt names no shape, more than two, or one shape twice.
    """
    found: list[Mention] = []
    colour: str | None = None
    for word in re.findall(r"[a-z]+", prompt.lower()):
        if word in COLOURS:
            colour = word
        elif word in NOUNS:
            found.append(Mention(word, colour))
            colour = None
    nouns = [item.noun for item in found]
    if not 1 <= len(found) <= MAX_OBJECTS or len(set(nouns)) < len(nouns):
        raise ValueError(
            f"the prompt must name one or two different shapes of {', '.join(NOUNS)}; "
            f"got {prompt!r}, which names {', '.join(nouns) or 'none'}"
        )
    return found
