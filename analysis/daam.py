"""DAAM: the map of a word."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr

from attlas.analysis.aggregate import aggregate
from attlas.analysis.selection import pick_calls
from attlas.analysis.trace import Trace
from attlas.analysis.words import text_kind, word_keys
from attlas.schemas.errors import unknown_name

__all__ = ["DAAM_VARIANTS", "daam"]

DAAM_VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {"resample": "nearest", "conserve": "mass", "clamp": False, "reduce": "sum"},
    "released": {"resample": "bicubic", "conserve": "intensity", "clamp": True, "reduce": "mean"},
}
"""What the paper (eq. 6 and 7) and the released code (castorini/daam 0.2.0) of DAAM do; threshold rules are
``max`` (eq. 8) and ``minmax``."""


def daam(
    trace: Trace,
    word: str,
    *,
    keep: str | Iterable[str] = (),
    variant: str = "paper",
    branch: str = "cond",
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
        sum. ``released``: castorini/daam 0.2.0, bicubic, negative values set to 0, sum over calls, mean over
        layers and heads. Layers are those chosen; the released code leaves out the middle block and 8x8.
    branch
        Guidance branch.
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
    if variant not in DAAM_VARIANTS:
        raise unknown_name("variant", variant, DAAM_VARIANTS)
    own = {"kind": text_kind(trace), **DAAM_VARIANTS[variant], **options}
    tokens = word_keys(trace, word, own["kind"], branch=branch)
    made = aggregate(trace, "g2r", keep, onto="query", branch=branch, keys=tokens, **own)
    attrs = {**made.attrs, "word": word, "variant": variant}
    if own["reduce"] == "mean" and "t" not in made.dims:
        # The released code takes the mean over layers and heads only.
        calls = pick_calls(trace, own.get("steps"))
        made = made * np.float32(trace.store.calls if calls is None else len(calls))
        attrs["reduce"] = "sum over t, mean over layers and heads"
    return made.assign_attrs(attrs)
