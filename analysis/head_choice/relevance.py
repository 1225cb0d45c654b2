"""Head relevance: which concept each head answers when it is asked about several at once.

As published (HRV, SNU-DRL; used by selective aggregation of attention maps): in every layer and call the keys of one
word per concept stand side by side, the softmax runs over them, its mean over the picture is taken, and the concept
with the largest share gets one count. Computed after the run from stored Q, W_k and the store's vocabulary.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from attlas.analysis.aggregation.key_parts import KeyPart
from attlas.analysis.aggregation.selection import head_labels, pick_calls, pick_parts
from attlas.analysis.aggregation.weights import axis_weights
from attlas.analysis.blockwise.attention import run_coords
from attlas.analysis.head_choice.relevance_block import Concepts, answer_block
from attlas.analysis.papers.vocabulary import check_words, entry, projecting_leaves, vocabulary
from attlas.analysis.trace import Trace
from attlas.analysis.words import has_word, prompts
from attlas.schemas.errors import InvalidValueError, unknown_name

__all__ = ["DRAWS", "NORMALISED", "TALLIES", "Words", "answers", "contrast", "mean_and_spread", "relevance", "vectors"]

DRAWS = ("random", "all")
TALLIES = ("count", "share")
NORMALISED = ("concept", "head")

Words = Mapping[str, str | Sequence[str]]
"""The word or words of each concept, by its name."""


def answers(
    trace: Trace,
    concepts: Words,
    *,
    tally: str = "count",
    draw: str = "random",
    seed: int = 0,
    layers: str | Sequence[str] | None = None,
    steps: int | slice | Iterable[int] | None = None,
    queries: Any = None,
    branch: str = "cond",
) -> xr.DataArray:
    """How often, or how strongly, each head of each run answers each concept.

    Parameters
    ----------
    trace
        From `open_trace`; its text leaves keep Q and W_k.
    concepts
        Name of each concept, and its word or words, all in the store's vocabulary. At least two.
    tally
        ``count``: calls in which the concept has the largest share (published). ``share``: the mean share itself.
    draw
        ``random``: one word per concept, drawn anew for every run, layer and call (published). ``all``: all words at
        once; a concept's share is the mean over all its tokens. The begin token of the first concept's word is in the
        softmax too, and counts for no concept (published).
    seed
        Of the draws, which depend on it, the run's name, the layer and the call, not on what else is computed.
    layers, steps, branch
        As in `aggregate`. The published vectors take all layers, the middle block too.
    queries
        Mask of the queries over which the mean is taken, as in `aggregate`; by default the whole picture.

    Returns
    -------
    ``(run, concept, layer, head)``, float32, unit 1 (``count``: of calls, 0 to their number), lazy. Counts of
    different runs add. A head that a layer lacks is NaN, and so is a run that lacks data.

    Raises
    ------
    InvalidValueError
        If there are fewer than two concepts, or one has no word.
    UnknownNameError
        If a word is not in the vocabulary (the error names those that are), or for another option's name.
    NotRecordedError
        If the store has no vocabulary, or a leaf no Q, no W_k.

    References
    ----------
    Cross-Attention Head Position Patterns Can Align with Human Visual Concepts (HRV), and its released code.
    """
    for what, got, accepted in (("tally", tally, TALLIES), ("draw", draw, DRAWS)):
        if got not in accepted:
            raise unknown_name(what, got, accepted)
    if branch not in trace.branches:
        raise unknown_name("branch", branch, trace.branches, where=trace.where)
    listed = _listed(trace, concepts)
    parts = pick_parts(trace, "text", layers, None)
    projecting_leaves(trace, [part.name for part in parts])
    calls = pick_calls(trace, steps)
    made = []
    for part in parts:
        weights = None
        if queries is not None:
            weights = axis_weights(trace, part.name, "query", queries, (branch,), KeyPart())
        place = {**part.place, **({} if calls is None else {"t": calls})}
        data = trace.arrays(part.name, ["query_vectors"], branch)["query_vectors"].isel(place)
        projection = trace.dataset(part.name)["key_projection"].isel(
            {name: place for name, place in part.place.items() if name == "layer"}
        )
        block = _blocks(
            trace,
            data,
            projection.data,
            weights,
            calls,
            part.labels,
            concepts=listed,
            tally=tally,
            draw=draw,
            seed=seed,
            masked=part.leaf.masked,
            device=trace.device,
        )
        coords = {"concept": list(concepts), "layer": part.labels, "head": list(head_labels(part.leaf))}
        made.append(xr.DataArray(block, dims=("run", "concept", "layer", "head"), coords=coords))
    whole = made[0] if len(made) == 1 else xr.concat(made, "layer", join="outer")
    count = trace.calls if calls is None else len(calls)
    if tally == "share":
        whole = whole / np.float32(count)
    whole = whole.assign_coords(run_coords(trace)).rename(None)
    return whole.assign_attrs(
        units="1",
        long_name="calls in which the head answers the concept" if tally == "count" else "share of the concept",
        calls=count,
        draw=draw,
        seed=seed,
        branch=branch,
        words="; ".join(f"{name}: {', '.join(own)}" for name, own in _texts(concepts).items()),
    )


def vectors(counts: xr.DataArray, normalise: str = "concept") -> xr.DataArray:
    """Head relevance from counts that were summed over runs.

    Parameters
    ----------
    counts
        ``(concept, layer, head)``, from `answers`, summed over its runs.
    normalise
        ``head``: each head's counts sum to 1 over concepts. ``concept``: of these, each concept's row is scaled to sum
        to the number of heads, which is the published head relevance vector.

    Returns
    -------
    ``(concept, layer, head)``, unit 1; a head that a layer lacks is NaN, and so is the row of a concept that no head
    ever answers.

    Examples
    --------
    >>> counts = xr.DataArray([[[3.0, 0.0]], [[1.0, 4.0]]], {"concept": ["a", "b"]}, ("concept", "layer", "head"))
    >>> vectors(counts, "head").values.tolist()
    [[[0.75, 0.0]], [[0.25, 1.0]]]
    >>> vectors(counts).values.tolist()
    [[[2.0, 0.0]], [[0.4, 1.6]]]
    """
    if normalise not in NORMALISED:
        raise unknown_name("normalise", normalise, NORMALISED)
    total = counts.sum("concept", min_count=1)
    by_head = counts / total.where(total > 0)
    if normalise == "head":
        return by_head.assign_attrs(units="1", long_name="distribution of a head over concepts", normalise="head")
    heads = total.notnull().sum(("layer", "head"))
    row = by_head.sum(("layer", "head"), min_count=1)
    made = by_head / row.where(row > 0) * heads.astype(counts.dtype)
    return made.assign_attrs(units="1", long_name="head relevance vector", normalise="concept")


def relevance(trace: Trace, concepts: Words, *, normalise: str = "concept", **options: Any) -> xr.DataArray:
    """Head relevance vectors (HRV) of concepts over all runs of a trace.

    Parameters
    ----------
    trace, concepts, **options
        As in `answers`, whose defaults are the published ones.
    normalise
        As in `vectors`.

    Returns
    -------
    ``(concept, layer, head)``, float32, unit 1, lazy. By concept each row sums to the number of heads.

    Notes
    -----
    The count says which word a head gives most attention to, in the mean over the picture. It does not say whether it
    does so at the object: a head that follows an object gives its word a small part of the picture, and a head that
    prefers one word everywhere wins. Measured on the shapes of the demo this ranks the worse heads first;
    `contrast` cancels the preference, and `attlas.analysis.heads.agreement` ranks by the maps themselves.

    See Also
    --------
    answers : per run, and additive.
    contrast : what changes where the prompt names the concept.
    """
    return vectors(answers(trace, concepts, **options).sum("run", min_count=1, keep_attrs=True), normalise)


def contrast(trace: Trace, concepts: Words, *, tally: str = "share", **options: Any) -> xr.DataArray:
    """How much more a head answers a concept in runs whose prompt names it than in the others.

    No masks are needed, only prompts: a preference of the head for a word, whatever the picture, cancels. Of attlas,
    not of a paper.

    Parameters
    ----------
    trace, concepts, tally, **options
        As in `answers`.

    Returns
    -------
    ``(concept, layer, head)``, float32, unit 1, lazy: difference of the two means over runs, in standard deviations
    over all runs. A concept that all prompts name, or none, is NaN, and so is a head that a layer lacks; a head whose
    answers never differ has 0.
    """
    found = answers(trace, concepts, tally=tally, **options)
    texts = prompts(trace, options.get("branch", "cond"))
    told = xr.DataArray(
        [[any(has_word(text, word) for word in words) for words in _texts(concepts).values()] for text in texts],
        {"run": list(trace.run_ids), "concept": list(concepts)},
        ("run", "concept"),
    )
    with_it, without = (mean_and_spread(found.where(chosen), "run")[0] for chosen in (told, ~told))
    spread = mean_and_spread(found, "run")[1]
    made = ((with_it - without) / spread.where(spread > 0, 1)).astype(np.float32).assign_attrs(found.attrs)
    return made.assign_attrs(long_name=f"{found.attrs['long_name']}: prompts that name it less the others")


def mean_and_spread(values: xr.DataArray, dims: str | Sequence[str]) -> tuple[xr.DataArray, xr.DataArray]:
    """Mean and standard deviation of what is not NaN; NaN, without a warning, where nothing is."""
    count = values.notnull().sum(dims)
    count = count.where(count > 0)
    mean = values.sum(dims, min_count=1) / count
    return mean, (((values - mean) ** 2).sum(dims, min_count=1) / count) ** 0.5


def _listed(trace: Trace, concepts: Words) -> Concepts:
    """Words of the concepts as the block function takes them."""
    if len(concepts) < 2:
        raise InvalidValueError(f"{len(concepts)} concepts; heads answer one of at least two")
    texts = _texts(concepts)
    for name, words in texts.items():
        if not words:
            raise InvalidValueError(f"concept {name!r} has no word")
    held = vocabulary(trace)
    check_words(held, [word for words in texts.values() for word in words], trace.where)
    return tuple(tuple(entry(held, word, trace.where) for word in words) for words in texts.values())


def _texts(concepts: Words) -> dict[str, list[str]]:
    return {name: [words] if isinstance(words, str) else list(words) for name, words in concepts.items()}


def _blocks(
    trace: Trace,
    data: xr.DataArray,
    projection: da.Array,
    weights: da.Array | None,
    calls: list[int] | None,
    layers: list[str],
    **options: Any,
) -> da.Array:
    """Tallies (run, concept, layer, head), summed over calls; a block has one run, one layer and a shard's calls."""
    own = data.variable
    lead = dict(zip(own.dims, own.chunks or (), strict=True))
    chunks = tuple(1 if dim in ("run", "layer") else lead[dim] if dim == "t" else -1 for dim in own.dims)
    places = np.arange(trace.calls) if calls is None else np.asarray(calls)
    pairs: list[Any] = [own.data.rechunk(chunks), "rbtlhqd"]
    labels = (
        ([zlib.crc32(name.encode()) for name in trace.run_ids], 1, "r"),
        ([zlib.crc32(name.encode()) for name in layers], 1, "l"),
        (places, lead["t"], "t"),
    )
    for values, size, axis in labels:
        pairs += [da.from_array(np.asarray(values, np.int64), chunks=(size,)), axis]
    pairs += [projection.rechunk((1, -1, -1)), "lfe"]
    if weights is not None:
        pairs += [weights.rechunk((1, -1, -1)), "rbq"]
    made = da.blockwise(
        answer_block,
        "rtclh",
        *pairs,
        new_axes={"c": len(options["concepts"])},
        adjust_chunks={"t": lambda _size: 1},
        calls=trace.calls,
        concatenate=True,
        align_arrays=False,
        dtype=np.float32,
        meta=np.empty((0,) * 5, np.float32),
        **options,
    )
    return made.sum(1)
