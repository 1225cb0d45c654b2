"""From a word of the prompt to its tokens, by character offsets."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.aggregation.selection import pick_kind
from attlas.analysis.trace import Trace
from attlas.schemas import Leaf
from attlas.schemas.errors import InvalidValueError, NotRecordedError, unknown_name
from attlas.schemas.words import covered, has_word, spans

__all__ = [
    "Span",
    "has_word",
    "prompts",
    "span_keys",
    "span_tokens",
    "spans",
    "text_keys",
    "text_kind",
    "word_keys",
    "word_spans",
    "word_tokens",
]

Span = tuple[int, int]
"""Characters of a prompt: the first, and one past the last."""


def word_spans(trace: Trace, word: str, *, branch: str = "cond", occurrence: int | None = None) -> list[list[Span]]:
    """Where `word` stands in the prompt of each run: all its occurrences, or the one of this number, from 0.

    Raises
    ------
    UnknownNameError
        If no run's prompt has the word; close words are named.
    InvalidValueError
        If the word is empty, or no prompt has it so often.

    Examples
    --------
    >>> from attlas.analysis import open_trace
    >>> from attlas.schemas import simulate_store
    >>> word_spans(open_trace(simulate_store(runs=1, prompt="a disc on a disc")), "disc", occurrence=1)
    [[(12, 16)]]
    """
    if not word.strip():
        raise InvalidValueError("the word is empty; give a word or phrase of the prompt")
    texts = prompts(trace, branch)
    found = [spans(text, word) for text in texts]
    if not any(found):
        known = dict.fromkeys(token for text in texts for token in re.findall(r"\w+", text.lower()))
        raise unknown_name("word", word, known, where=f"the prompts of {trace.where}")
    if occurrence is None:
        return found
    most = max(len(places) for places in found)
    if not 0 <= occurrence < most:
        raise InvalidValueError(
            f"occurrence {occurrence} of word {word!r}, which stands {most} times in a prompt at most; "
            f"0 to {most - 1} is accepted"
        )
    return [places[occurrence : occurrence + 1] for places in found]


def word_tokens(
    trace: Trace,
    word: str,
    *,
    branch: str = "cond",
    leaf: str | None = None,
    occurrence: int | None = None,
    chunk: int | None = None,
) -> xr.DataArray:
    """Which keys spell `word`, in every run.

    All occurrences count, in any case, as whole words: ``"a"`` is found in ``"a cat"`` at its first place only.
    A phrase (``"red disc"``) counts where its words stand together. A token counts if it shares a
    character with an occurrence.

    Parameters
    ----------
    trace
        From `open_trace`.
    word
        Word or phrase of the prompt.
    branch
        Guidance branch; other branches than ``cond`` are searched in the request's negative prompt.
    leaf
        Group path of a leaf with text keys; by default the first of kind ``text``, else of ``joint``. Text leaves
        all have the same tokens; joint leaves may differ in their keys: see `word_keys`.
    occurrence
        Which occurrence, from 0, where the prompt has several; by default all.
    chunk
        Which text encoder's tokens, or which piece of a long prompt, from 0, where the keys hold several (Stable
        Diffusion 3: CLIP, then T5); by default all.

    Returns
    -------
    ``(run, branch, key)``, bool, in memory, branch of length 1. A run whose prompt lacks the word has no True; keys
    of a joint sequence that are no text are False.

    Raises
    ------
    UnknownNameError
        If no run's prompt has the word; close words are named.
    NotRecordedError
        If the store has no text keys, or does not keep those of the word.
    InvalidValueError
        If the word stands in prompts only beyond the tokens that the model sees, or is empty; if there is no such
        occurrence or chunk.

    Examples
    --------
    >>> from attlas.analysis import open_trace
    >>> from attlas.schemas import simulate_store
    >>> found = word_tokens(open_trace(simulate_store(runs=1, kinds=("text",))), "Blue cross")
    >>> np.flatnonzero(found.values[0, 0]).tolist()  # begin, a, red, disc, and, a, blue, cross
    [6, 7]
    """
    found = word_spans(trace, word, branch=branch, occurrence=occurrence)
    name = leaf or next(iter(_text_leaves(trace, text_kind(trace))), next(iter(trace.leaves)))
    matched = span_tokens(trace, found, branch=branch, leaf=name, chunk=chunk)
    _check_found(trace, name, word, matched, chunk)
    return matched.rename(word)


def word_keys(
    trace: Trace,
    word: str,
    kind: str | None = None,
    *,
    branch: str = "cond",
    occurrence: int | None = None,
    chunk: int | None = None,
) -> Mapping[str, xr.DataArray]:
    """`word_tokens` of every leaf of a kind with text keys, by group path: what ``keys=`` of a map takes.

    `kind` is by default ``text``, else ``joint``. Errors as in `word_tokens`.
    """
    found = span_keys(
        trace, word_spans(trace, word, branch=branch, occurrence=occurrence), kind, branch=branch, chunk=chunk
    )
    for name, matched in found.items():
        _check_found(trace, name, word, matched, chunk)
    return {name: matched.rename(word) for name, matched in found.items()}


def span_tokens(
    trace: Trace, found: Sequence[Sequence[Span]], *, leaf: str, branch: str = "cond", chunk: int | None = None
) -> xr.DataArray:
    """Which keys of a leaf share a character with the spans of each run: ``(run, branch, key)``, bool, in memory.

    None need: a run without spans, or whose tokens end before them, has no True. `chunk` as in `word_tokens`.
    """
    return _by_run(trace, leaf, branch, chunk, lambda starts, ends, row: covered(starts, ends, list(found[row])))


def span_keys(
    trace: Trace,
    found: Sequence[Sequence[Span]],
    kind: str | None = None,
    *,
    branch: str = "cond",
    chunk: int | None = None,
) -> dict[str, xr.DataArray]:
    """`span_tokens` of every leaf of a kind with text keys, by group path: what ``keys=`` of a map takes."""
    return _by_leaf(trace, kind, lambda name: span_tokens(trace, found, leaf=name, branch=branch, chunk=chunk))


def text_keys(
    trace: Trace, kind: str | None = None, *, branch: str = "cond", chunk: int | None = None
) -> dict[str, xr.DataArray]:
    """Keys that are tokens of the prompt itself, without begin, end and padding, of every leaf of a kind.

    As `span_keys`: ``(run, branch, key)``, bool, in memory, by group path.
    """

    def own(name: str) -> xr.DataArray:
        return _by_run(trace, name, branch, chunk, lambda starts, *_: starts >= 0)

    return _by_leaf(trace, kind, own)


def _by_run(
    trace: Trace,
    leaf: str,
    branch: str,
    chunk: int | None,
    match: Callable[[NDArray[np.int32], NDArray[np.int32], int], NDArray[np.bool_]],
) -> xr.DataArray:
    """Match the tokens of each run by their characters; of one chunk only, where it is given."""
    place = trace.branches.index(branch)
    starts, ends = (trace.tokens(leaf).variables[name].values[:, place] for name in ("token_start", "token_end"))
    rows = zip(starts, ends, strict=True)
    matched = np.stack([match(*own, row) for row, own in enumerate(rows)])
    if chunk is not None:
        held = trace.dataset(leaf)["token_chunk"].sel(branch=branch).values
        known = sorted(set(held[starts >= 0].tolist()))
        if chunk not in known:
            shown = ", ".join(str(number) for number in known)
            raise InvalidValueError(
                f"the prompt's tokens in leaf {leaf} of {trace.where} have no chunk {chunk}; {shown} is accepted"
            )
        matched &= held == chunk
    return xr.DataArray(
        matched[:, None],
        dims=("run", "branch", "key"),
        coords={"run": list(trace.run_ids), "branch": [branch]},
    )


def _by_leaf(trace: Trace, kind: str | None, match: Callable[[str], xr.DataArray]) -> dict[str, xr.DataArray]:
    """Match in every leaf of a kind with text keys; leaves with the same keys are matched once."""
    kind = pick_kind(trace, text_kind(trace) if kind is None else kind)
    made: dict[object, xr.DataArray] = {}
    found = {}
    for name, leaf in _text_leaves(trace, kind).items():
        alike = (leaf.keys, leaf.key_segments, leaf.partial)
        if alike not in made:
            made[alike] = match(name)
        found[name] = made[alike]
    if not found:
        trace.tokens(next(name for name, leaf in trace.leaves.items() if leaf.kind == kind))
    return found


def _check_found(trace: Trace, name: str, word: str, matched: xr.DataArray, chunk: int | None) -> None:
    """Refuse a word none of whose tokens is among the keys of any run."""
    if matched.any():
        return
    if name in trace.leaves and trace.leaves[name].partial:
        raise NotRecordedError(
            f"leaf {name} of {trace.where} keeps a part of its keys, and none of word {word!r}; record with "
            f'Capture(keys="all"), or with the word among keys=[...]'
        )
    among = f"the {matched.sizes['key']} tokens" if chunk is None else f"the tokens of chunk {chunk}"
    raise InvalidValueError(f"word {word!r} stands in the prompt beyond {among} that the model sees")


def text_kind(trace: Trace) -> str:
    """Kind of attention in which words are looked up: ``joint`` where its keys hold the text and none is ``text``."""
    held = [leaf.kind for leaf in trace.leaves.values() if leaf.has_tokens]
    return "joint" if held and "text" not in held else "text"


def _text_leaves(trace: Trace, kind: str) -> dict[str, Leaf]:
    return {name: leaf for name, leaf in trace.leaves.items() if leaf.kind == kind and leaf.has_tokens}


def prompts(trace: Trace, branch: str = "cond") -> list[str]:
    """Text that the branch was conditioned on, one per run; the negative prompt (or nothing) for other branches."""
    if branch not in trace.branches:
        raise unknown_name("branch", branch, trace.branches, where=trace.where)
    if branch == "cond":
        return [str(text) for text in trace.runs["prompt"].values]
    requests: Iterable[dict[str, object]] = (json.loads(str(text) or "{}") for text in trace.runs["request"].values)
    return [str(request.get("negative_prompt") or "") for request in requests]
