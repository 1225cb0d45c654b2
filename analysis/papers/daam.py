"""DAAM: the map of a word, and which of its cells are high."""

from collections.abc import Iterable
from typing import Any

import xarray as xr

from attlas.analysis.aggregation.resample import resample
from attlas.analysis.normalise import threshold
from attlas.analysis.papers.open_vocabulary import open_vocabulary_map
from attlas.analysis.papers.span_maps import DAAM_VARIANTS, span_map
from attlas.analysis.trace import Trace
from attlas.analysis.words import text_kind, word_keys, word_spans
from attlas.schemas.errors import InvalidValueError, NotRecordedError, unknown_name

__all__ = ["DAAM_VARIANTS", "HARD_RULES", "daam", "hard", "released_layers"]

HARD_RULES = {"paper": ("max", "nearest"), "released": ("minmax", "bicubic")}
"""Threshold rule, and how a map is brought to the picture before it: of the paper (eq. 6 and 8; its transposed
convolution is ``nearest``) and of the released code."""

RELEASED_FACTOR = 8
"""The released code leaves out the layers that are this much coarser than the finest."""


def daam(
    trace: Trace,
    word: str,
    *,
    keep: str | Iterable[str] = (),
    variant: str = "paper",
    branch: str = "cond",
    occurrence: int | None = None,
    chunk: int | None = None,
    merge: str = "mean",
    normalize: bool = False,
    open_vocabulary: bool | str = False,
    **options: Any,
) -> xr.DataArray:
    """Word map: how much each place of the picture looks at `word` (DAAM).

    The model's own attention (g2r) onto the word's tokens, their mean where the word has several or occurs more
    than once, brought to the finest query grid.

    Parameters
    ----------
    trace
        From `open_trace`.
    word
        Word or phrase of the prompt; see `attlas.analysis.words.word_tokens`.
    keep
        Axes to keep, such as ``("layer", "head")``.
    variant
        ``paper``: eq. 6 and 7, transposed convolution with weight 1/c^2 (coarse layers count less) and a plain
        sum. ``released``: castorini/daam 0.2.0, bicubic, negative values of each token set to 0, sum over calls, mean
        over layers and heads. Layers are those chosen: ``layers=released_layers(trace)`` are the released code's.
    branch
        Guidance branch.
    occurrence
        Which occurrence of the word, from 0; by default all.
    chunk
        Which text encoder's tokens, or which piece of a long prompt, from 0; by default all, which with two encoders
        is the mean over both.
    merge
        How the word's tokens become one map: ``mean`` (both variants), ``sum`` (all attention that the word gets) or
        ``max`` of their maps.
    normalize
        Divide by the sum over all tokens of the prompt, begin, end and padding left out, plus 1e-6: the word's share
        of what words get (``normalize=True`` of the released code). Changes the map, not only its scale.
    open_vocabulary
        Ask for a word of the store's vocabulary, in any prompt or none; a text of the vocabulary in which it stands
        may be given. Then ``over=`` is an option too: see `attlas.analysis.papers.open_vocabulary.open_vocabulary_map`.
    **options
        Of `aggregate`; ``resample``, ``conserve`` and ``clamp`` override the variant's. ``kind`` is ``text`` where
        the store has it, else ``joint``, whose softmax runs over words and patches together.

    Returns
    -------
    ``(run, *keep, query_y, query_x)``, float32, unit 1, lazy; ``query_frame`` before the rows in a video. Runs
    without the word are NaN.

    Raises
    ------
    UnknownNameError
        If no prompt has the word (close ones are named), or for another `variant`.
    NotRecordedError
        If single steps are asked of a store that keeps summaries only.

    References
    ----------
    DAAM (Tang et al. 2022), eq. 5-8.

    Examples
    --------
    >>> from attlas.analysis import open_trace
    >>> from attlas.schemas import simulate_store
    >>> m = daam(open_trace(simulate_store(runs=1)), "disc", variant="released")
    >>> m.dims, m.attrs["word"], m.attrs["variant"]
    (('run', 'query_y', 'query_x'), 'disc', 'released')
    """
    if open_vocabulary:
        if (occurrence, chunk, merge, normalize) != (None, None, "mean", False):
            raise InvalidValueError("occurrence, chunk, merge and normalize are of words in the prompt")
        text = open_vocabulary if isinstance(open_vocabulary, str) else None
        return open_vocabulary_map(trace, word, text, keep=keep, variant=variant, branch=branch, **options)
    kind = options.get("kind") or text_kind(trace)
    found = word_spans(trace, word, branch=branch, occurrence=occurrence)
    word_keys(trace, word, kind, branch=branch, occurrence=occurrence, chunk=chunk)  # refuses a word without tokens
    settings: dict[str, Any] = {"keep": keep, "variant": variant, "branch": branch, "chunk": chunk, "merge": merge}
    made = span_map(trace, found, normalize=normalize, **settings, **{**options, "kind": kind})
    return made.assign_attrs(word=word, chosen_keys=word)


def hard(
    values: xr.DataArray,
    tau: float = 0.4,
    *,
    variant: str = "paper",
    rule: str | None = None,
    grid: str | tuple[int, int] | None = None,
) -> xr.DataArray:
    """Hard map: 1 where the word acts, else 0 (DAAM eq. 8), by the paper's rule or the released code's.

    Parameters
    ----------
    values
        Maps with two spatial dims.
    tau
        Threshold; 0.4 is best in DAAM Table 1.
    variant
        ``paper``: value ``>= tau * max``. ``released``: bicubic, min-max, then ``> tau``: a higher bar wherever the
        least value is above 0, so its areas are smaller.
    rule
        Another threshold rule, of `threshold`.
    grid
        Rows and columns to bring the maps to first, such as the picture's; by default their own.

    Returns
    -------
    Same dims, float32. Lazy if `values` is lazy. A map with a NaN is NaN.

    Raises
    ------
    UnknownNameError
        For another `variant` or `rule`.
    InvalidValueError
        If `tau` is out of range.

    Examples
    --------
    >>> m = xr.DataArray([[0.3, 0.4], [0.5, 0.7]], dims=("y", "x"))
    >>> hard(m).values.tolist()  # at least 0.28
    [[1.0, 1.0], [1.0, 1.0]]
    >>> hard(m, variant="released").values.tolist()  # above 0.3 + 0.4 * 0.4
    [[0.0, 0.0], [1.0, 1.0]]
    """
    if variant not in HARD_RULES:
        raise unknown_name("variant", variant, HARD_RULES)
    own_rule, resampling = HARD_RULES[variant]
    shown = values if grid is None else resample(values, grid, resampling)
    return threshold(shown, tau, rule=rule or own_rule)


def released_layers(trace: Trace, kind: str | None = None) -> list[str]:
    """Text layers that DAAM's released code records: without the middle block, and without those 8 times coarser.

    For Stable Diffusion 1 and 2 that is all but the 8x8 (at 768 pixels 12x12) middle block.

    Parameters
    ----------
    trace
        From `open_trace`.
    kind
        By default ``text``, else ``joint``.

    Returns
    -------
    Paths for ``layers=``, in stored order.

    Raises
    ------
    NotRecordedError
        If none is left.

    Examples
    --------
    >>> from attlas.analysis import open_trace
    >>> from attlas.schemas import simulate_store
    >>> trace = open_trace(simulate_store(runs=1))
    >>> len(released_layers(trace))
    2
    """
    own = kind or text_kind(trace)
    leaves = [leaf for leaf in trace.leaves.values() if leaf.kind == own and leaf.has_tokens]
    finest = max((leaf.query_grid[-2] for leaf in leaves), default=0)
    kept = [
        path
        for leaf in leaves
        if finest // leaf.query_grid[-2] != RELEASED_FACTOR
        for path in leaf.layers
        if "mid_block" not in path
    ]
    if not kept:
        raise NotRecordedError(
            f"{trace.where} has no layer of kind {own!r} outside the middle block and the 8 times coarser ones"
        )
    return kept
