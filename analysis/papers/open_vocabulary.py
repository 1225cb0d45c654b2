"""Word maps of words that were in no prompt.

The idea is OVAM's (Open-Vocabulary Attention Maps): attention is computed anew between the stored Q and the keys of
another text. What the softmax then runs over is a choice, and named.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis.aggregation.aggregate import aggregate
from attlas.analysis.aggregation.selection import pick_calls
from attlas.analysis.aggregation.vocabulary_term import SOFTMAX_OVER, vocabulary_keys
from attlas.analysis.papers.span_maps import DAAM_VARIANTS
from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError, unknown_name

__all__ = ["SOFTMAX_OVER", "open_vocabulary_map"]


def open_vocabulary_map(
    trace: Trace,
    word: str,
    text: str | None = None,
    *,
    over: str = "alone",
    keep: str | Iterable[str] = (),
    variant: str = "paper",
    branch: str = "cond",
    **options: Any,
) -> xr.DataArray:
    """Word map of a word of the store's vocabulary, in any prompt or none.

    Parameters
    ----------
    trace
        From `open_trace`; its text leaves keep Q and W_k.
    word
        Word or phrase; of the vocabulary, unless `text` is given.
    text
        Text of the vocabulary in which `word` stands, such as ``"a red disc"``. Text encoders are contextual: a word
        alone may have another key than in a sentence.
    over
        What the softmax runs over. ``alone``: the begin, word and end tokens of the text by themselves (OVAM).
        ``prompt``: the word's tokens beside all keys of the run's own prompt; a head whose keys the word outweighs
        everywhere then fills the whole map.
    keep, variant, branch, **options
        As in `attlas.analysis.papers.daam.daam`.

    Returns
    -------
    ``(run, *keep, query_y, query_x)``, float32, unit 1, lazy. No run is NaN for its prompt.

    Raises
    ------
    UnknownNameError
        If the vocabulary lacks the text; the error names what it has and how to record more.
    NotRecordedError
        If the store has no vocabulary, or leaves without Q or W_k.
    InvalidValueError
        If `word` does not stand in `text`.

    Notes
    -----
    On the shapes of the demo (64 runs, nouns of the prompts, all heads, threshold 0.4): mean IoU with the object .24
    ``alone`` and .10 beside the ``prompt``, where the prompt's own word has .43; .09 is chance. Hence the default. The
    nouns of that model alone have other keys than in a prompt, and no text encoder need do better: compare with a
    word of the prompt before trusting the map of one that is not.

    References
    ----------
    Open-Vocabulary Attention Maps with Token Optimization (OVAM, Marcos-Manchon et al. 2024).
    """
    if variant not in DAAM_VARIANTS:
        raise unknown_name("variant", variant, DAAM_VARIANTS)
    own = {**DAAM_VARIANTS[variant], **options}
    kind = own.pop("kind", None) or "text"
    for name in ("sinks", "order"):
        if own.get(name) not in (None, "heads", "last"):
            raise InvalidValueError(f"{name}={own[name]!r} is of the prompt's own keys; an open vocabulary has others")
    keys = vocabulary_keys(trace, word, text, over=over, kind=kind)
    made = aggregate(trace, "g2r", keep, onto="query", branch=branch, kind=kind, keys=keys, **own)
    attrs = {**made.attrs, "variant": variant, "word": word, "vocabulary": keys.entry.text, "softmax_over": over}
    if own["reduce"] == "mean" and "t" not in made.dims:
        calls = pick_calls(trace, own.get("steps"), own.get("calls"))
        made = made * np.float32(trace.calls if calls is None else len(calls))
        attrs["reduce"] = "sum over t, mean over layers and heads"
    return made.assign_attrs(attrs)
