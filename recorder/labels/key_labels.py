"""From the labels of a text's tokens to those of all keys of a leaf."""

from collections.abc import Sequence

from attlas.recorder.labels.tokens import TokenLabels

__all__ = ["in_sequence", "only"]


def only(labels: TokenLabels, places: Sequence[int]) -> TokenLabels:
    """Labels of some of the tokens; of places that the text does not reach, those of no token."""
    room = max(len(labels.tokens), max(places) + 1)
    reach = in_sequence(labels, 0, room, room)
    return TokenLabels(
        tokens=tuple(reach.tokens[place] for place in places),
        segments=tuple(reach.segments[place] for place in places),
        starts=tuple(reach.starts[place] for place in places),
        ends=tuple(reach.ends[place] for place in places),
        chunks=tuple(reach.chunks[place] for place in places),
    )


def in_sequence(labels: TokenLabels, first: int, room: int, keys: int) -> TokenLabels:
    """Labels of `keys` keys, of which those from `first` on are the text, which has `room` places.

    Places beyond the text's own tokens are ``absent``; keys that are no text have no label.
    """
    gap = room - len(labels.tokens)
    after = keys - first - room

    def words(values: tuple[str, ...], absent: str) -> tuple[str, ...]:
        return ("",) * first + values + (absent,) * gap + ("",) * after

    def numbers(values: tuple[int, ...]) -> tuple[int, ...]:
        return (-1,) * first + values + (-1,) * (gap + after)

    return TokenLabels(
        tokens=words(labels.tokens, ""),
        segments=words(labels.segments, "absent"),
        starts=numbers(labels.starts),
        ends=numbers(labels.ends),
        chunks=numbers(labels.chunks),
    )
