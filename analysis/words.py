"""From a word of the prompt to its tokens, by character offsets."""

import json
import re
from collections.abc import Iterable

import numpy as np
import xarray as xr

from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError, unknown_name
from attlas.schemas.words import covered, has_word, spans

__all__ = ["has_word", "prompts", "spans", "word_tokens"]


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
        Group path of the text leaf; by default the first (all have the same tokens).

    Returns
    -------
    ``(run, branch, key)``, bool, in memory, branch of length 1. A run whose prompt lacks the word has no True.

    Raises
    ------
    UnknownNameError
        If no run's prompt has the word; close words are named.
    NotRecordedError
        If the store has no text keys.
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
    name = leaf or next((name for name, own in trace.leaves.items() if own.kind == "text"), next(iter(trace.leaves)))
    tokens = trace.tokens(name).sel(branch=branch)
    starts, ends = tokens["token_start"].values, tokens["token_end"].values
    matched = np.stack([covered(*row) for row in zip(starts, ends, found, strict=True)])
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


def prompts(trace: Trace, branch: str = "cond") -> list[str]:
    """Text that the branch was conditioned on, one per run; the negative prompt (or nothing) for other branches."""
    if branch not in trace.branches:
        raise unknown_name("branch", branch, trace.branches, where=trace.where)
    if branch == "cond":
        return [str(text) for text in trace.runs["prompt"].values]
    requests: Iterable[dict[str, object]] = (json.loads(str(text) or "{}") for text in trace.runs["request"].values)
    return [str(request.get("negative_prompt") or "") for request in requests]
