"""A leaf's share of a map of words that stand in no prompt: keys from the vocabulary, queries from the run."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.aggregation.selection import Part
from attlas.analysis.blockwise import kernels
from attlas.analysis.papers.vocabulary import Entry, entry, project, projecting_leaves, vocabulary
from attlas.analysis.trace import Trace
from attlas.schemas.errors import InvalidValueError, NotRecordedError, unknown_name

if TYPE_CHECKING:
    from attlas.analysis.aggregation.terms import Question

__all__ = ["SOFTMAX_OVER", "VocabularyKeys", "vocabulary_keys", "vocabulary_term"]

SOFTMAX_OVER = ("alone", "prompt")
"""``alone``: the begin, word and end tokens of the text by itself (OVAM's attribution prompt). ``prompt``: the word's
tokens beside all keys of the run's own prompt, so that a head which looks elsewhere looks at the word little."""


@dataclass(frozen=True)
class VocabularyKeys:
    """Keys of a text of the vocabulary, as ``keys=`` of a map takes them instead of keys of the prompt."""

    name: str
    entry: Entry
    over: str


def vocabulary_keys(
    trace: Trace, word: str, text: str | None = None, *, over: str = "alone", kind: str = "text"
) -> VocabularyKeys:
    """Keys that `word` would have had, for ``keys=`` of a map of direction g2r onto the queries.

    Parameters
    ----------
    trace
        From `open_trace`.
    word
        Word or phrase; of the vocabulary, unless `text` is given.
    text
        Text of the vocabulary in which `word` stands, such as ``"a red disc"``; by default the word alone.
    over
        What the softmax runs over; see `SOFTMAX_OVER`.
    kind
        Kind of attention; only ``text`` has keys that follow from embeddings.

    Raises
    ------
    NotRecordedError
        If the store has no vocabulary, or holds no text attention.
    UnknownNameError
        If the vocabulary lacks the text (the error names what it has and how to record more), or for another `over`.
    InvalidValueError
        If `word` does not stand in `text`.
    """
    if over not in SOFTMAX_OVER:
        raise unknown_name("softmax over", over, SOFTMAX_OVER)
    if kind != "text" or "text" not in trace.kinds:
        raise NotRecordedError(
            f"{trace.where}: an open vocabulary needs attention of kind 'text', whose keys are products of embeddings "
            f"and W_k; this is kind {kind!r} of a store with {', '.join(trace.kinds)}"
        )
    return VocabularyKeys(word, entry(vocabulary(trace), text or word, trace.where, word=word), over)


def vocabulary_term(trace: Trace, part: Part, question: "Question") -> xr.Variable:
    """Mean attention of each query to the word's tokens; lazy, ``(run, branch, t, layer, head, query)``, float32.

    Raises
    ------
    InvalidValueError
        Unless the softmax is over keys and the map lies on the queries.
    NotRecordedError
        If the leaf keeps no Q or no W_k, or if a summary is insisted on.
    """
    keys, leaf = question.keys, part.name
    if (question.direction, question.onto) != ("g2r", "query"):
        raise InvalidValueError(
            f"words of the vocabulary are asked in direction g2r onto query; got {question.direction} onto "
            f"{question.onto}"
        )
    if question.source == "summary":
        raise NotRecordedError(f"{trace.where}: no summary holds words of the vocabulary; source='auto' reads Q")
    geometry = projecting_leaves(trace, [leaf])[leaf]
    names = ["query_vectors"] + (["logsumexp"] if keys.over == "prompt" else [])
    data = trace.arrays(leaf, names, question.branches[0] if len(question.branches) == 1 else None)
    data = data.isel({**part.place, **({} if question.calls is None else {"t": question.calls})})
    weights = trace.dataset(leaf)["key_projection"].isel(layer=list(part.layers))
    vectors = data["query_vectors"].variable
    cut = (1, *(vectors.chunks or ())[1:3], 1, -1, -1, -1)
    pairs: list[Any] = [vectors.data.rechunk(cut), "rbtlhqd", weights.data.rechunk((1, -1, -1)), "lfe"]
    if keys.over == "prompt":
        pairs += [data["logsumexp"].variable.data.rechunk(cut[:6]), "rbtlhq"]
    made = da.blockwise(
        _word_block,
        "rbtlhq",
        *pairs,
        entry=keys.entry,
        heads=geometry.heads,
        chosen=np.asarray(part.heads),
        masked=geometry.masked,
        device=trace.device,
        concatenate=True,
        align_arrays=False,
        dtype=np.float32,
        meta=np.empty((0,) * 6, np.float32),
    )
    return xr.Variable(vectors.dims[:-1], made)


def _word_block(
    query_vectors: NDArray[Any],
    projection: NDArray[Any],
    logsumexp: NDArray[np.float32] | None = None,
    *,
    entry: Entry,
    heads: int,
    chosen: NDArray[np.int64],
    masked: bool,
    device: str,
) -> NDArray[np.float32]:
    """Mean attention (..., query) to the entry's tokens, of one run and one layer."""
    own = project(entry.embeddings, projection[0], heads, device)[chosen]
    lead = query_vectors.shape[:5]
    flat = torch.from_numpy(np.ascontiguousarray(query_vectors)).reshape(-1, *query_vectors.shape[5:])
    rows = None if logsumexp is None else torch.from_numpy(np.ascontiguousarray(logsumexp)).reshape(len(flat), -1)
    keys = own.repeat(len(flat) // len(own), 1, 1)
    looked_at = list(entry.looked_at)
    made = np.empty((len(flat), flat.shape[1]), np.float32)
    with torch.inference_mode():
        for place in kernels.blocks(len(flat), flat.shape[1], len(entry.segments)):
            block = flat[place].to(device)
            logits = kernels.logits_from_factors(block[..., :-1] if masked else block, keys[place])
            if rows is None:
                share = kernels.attention(logits, "g2r")[..., looked_at]
            else:
                logits = logits[..., looked_at]
                whole = torch.logaddexp(rows[place].to(device).float(), logits.logsumexp(-1))
                share = torch.exp(logits - whole.unsqueeze(-1))
            made[place] = share.mean(-1).cpu().numpy()
    return made.reshape(*lead, -1)
