"""From a word of the prompt to its tokens, by character offsets."""

import json
import re
from collections.abc import Iterable, Mapping

import numpy as np
import xarray as xr

from attlas.analysis.selection import pick_kind
from attlas.analysis.trace import Trace
from attlas.schemas import Leaf
from attlas.schemas.errors import InvalidValueError, NotRecordedError, unknown_name
from attlas.schemas.words import covered, has_word, spans

__all__ = ["has_word", "prompts", "spans", "text_kind", "word_keys", "word_tokens"]


def word_tokens(trace: Trace, word: str, *, branch: str = "cond", leaf: str | None = None) -> xr.DataArray:
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
        If the word stands in prompts only beyond the tokens that the model sees, or is empty.

    Examples
    --------
    >>> from attlas.analysis import open_trace
    >>> from attlas.schemas import simulate_store
    >>> found = word_tokens(open_trace(simulate_store(runs=1, kinds=("text",))), "Blue cross")
    >>> np.flatnonzero(found.values[0, 0]).tolist()  # begin, a, red, disc, and, a, blue, cross
    [6, 7]
    """
    if not word.strip():
        raise InvalidValueError("the word is empty; give a word or phrase of the prompt")
    texts = prompts(trace, branch)
    found = [spans(text, word) for text in texts]
    if not any(found):
        known = dict.fromkeys(token for text in texts for token in re.findall(r"\w+", text.lower()))
        raise unknown_name("word", word, known, where=f"the prompts of {trace.where}")
    name = leaf or next(iter(_text_leaves(trace, text_kind(trace))), next(iter(trace.leaves)))
    tokens = trace.tokens(name).sel(branch=branch)
    starts, ends = tokens["token_start"].values, tokens["token_end"].values
    matched = np.stack([covered(*row) for row in zip(starts, ends, found, strict=True)])
    if not matched.any() and name in trace.leaves and trace.leaves[name].partial:
        raise NotRecordedError(
            f"leaf {name} of {trace.where} keeps a part of its keys, and none of word {word!r}; record with "
            f'Capture(keys="all"), or with the word among keys=[...]'
        )
    if not matched.any():
        raise InvalidValueError(
            f"word {word!r} stands in the prompt beyond the {matched.shape[1]} tokens that the model sees"
        )
    return xr.DataArray(
        matched[:, None],
        dims=("run", "branch", "key"),
        coords={"run": list(trace.run_ids), "branch": [branch]},
        name=word,
    )


def word_keys(trace: Trace, word: str, kind: str | None = None, *, branch: str = "cond") -> Mapping[str, xr.DataArray]:
    """`word_tokens` of every leaf of a kind with text keys, by group path: what ``keys=`` of a map takes.

    `kind` is by default ``text``, else ``joint``. Errors as in `word_tokens`.
    """
    kind = pick_kind(trace, text_kind(trace) if kind is None else kind)
    made: dict[object, xr.DataArray] = {}
    found = {}
    for name, leaf in _text_leaves(trace, kind).items():
        alike = (leaf.keys, leaf.key_segments, leaf.partial)
        if alike not in made:
            made[alike] = word_tokens(trace, word, branch=branch, leaf=name)
        found[name] = made[alike]
    if not found:
        trace.tokens(next(name for name, leaf in trace.leaves.items() if leaf.kind == kind))
    return found


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
