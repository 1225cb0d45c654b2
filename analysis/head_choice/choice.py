"""From scores of heads to a choice: top, bottom or random, equal weights or the scores themselves."""

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.head_choice.single_heads import Head, flat_maps, rank
from attlas.schemas.errors import InvalidValueError, unknown_name

__all__ = ["WEIGHTS", "agreement", "random_rankings", "select"]

WEIGHTS = ("hard", "soft")


def select(
    scores: xr.DataArray,
    concept: str | None = None,
    *,
    top: float | None = None,
    bottom: float | None = None,
    random: float | None = None,
    seed: int = 0,
    weights: str = "hard",
) -> xr.DataArray:
    """Weights of chosen heads, for ``heads=`` of any map.

    Parameters
    ----------
    scores
        ``(layer, head)``, or ``(concept, layer, head)`` with `concept` naming one: relevance vectors, contrast, IoU of
        heads by themselves. NaN is no head.
    concept
        Which concept's scores.
    top, bottom, random
        How many: a whole number of heads, or a fraction such as 0.2 of them, rounded to the nearest whole number. One
        of the three, or none to take all heads. The published choice is the top 20 to 25 %.
    seed
        Of the random choice.
    weights
        ``hard``: 1 for every chosen head. ``soft``: its score, so that a head of score 0 does not count.

    Returns
    -------
    ``(layer, head)``, float32, unit 1, in memory: 0 for heads that were not chosen, NaN for those that a layer lacks.

    Raises
    ------
    InvalidValueError
        If no head is chosen (0, or a fraction of less than half a head), more than there are, two ways at once,
        or soft weights that are negative or all 0.
    UnknownNameError
        If `concept` is not there, or for another sort of weights.

    Examples
    --------
    >>> scores = xr.DataArray([[0.1, 0.7], [0.4, np.nan]], {"layer": ["a", "b"], "head": [0, 1]}, ("layer", "head"))
    >>> select(scores, top=2).values.tolist()
    [[0.0, 1.0], [1.0, nan]]
    >>> select(scores, bottom=1, weights="soft").values.round(1).tolist()
    [[0.1..., 0.0], [0.0, nan]]
    """
    if weights not in WEIGHTS:
        raise unknown_name("weights", weights, WEIGHTS)
    own = _of_concept(scores, concept).transpose("layer", "head").astype(np.float32).compute()
    ranked = rank(own)
    if not ranked:
        raise InvalidValueError(f"no head has a score{f' for {concept!r}' if concept else ''}: all are NaN")
    ways = {"top": top, "bottom": bottom, "random": random}
    given = {name: count for name, count in ways.items() if count is not None}
    if len(given) > 1:
        raise InvalidValueError(f"{' and '.join(given)} are given; choose one of them")
    chosen = ranked
    for name, count in given.items():
        size = _count(count, len(ranked), name)
        order = {"top": ranked, "bottom": ranked[::-1], "random": _shuffled(ranked, seed)}[name]
        chosen = order[:size]
    made = own.where(own.isnull(), 0).drop_vars([name for name in own.coords if name not in ("layer", "head")])
    for layer, head in chosen:
        place = {"layer": layer, "head": head}
        made.loc[place] = 1.0 if weights == "hard" else own.loc[place]
    if float(made.min()) < 0 or not float(made.max()) > 0:
        raise InvalidValueError(
            f"soft weights of {len(chosen)} chosen heads reach from {float(made.min()):g} to {float(made.max()):g}; "
            'weights must not be negative or all 0: weights="hard" takes the order alone'
        )
    way = ", ".join(f"{name} {count:g}" for name, count in given.items()) or "all"
    return made.rename(None).assign_attrs(
        units="1", long_name="weight of the head", chosen=f"{way}: {len(chosen)} heads", weights=weights
    )


def agreement(maps: xr.DataArray) -> xr.DataArray:
    """How well each head's word maps agree with those of all heads together: a score without masks or vocabulary.

    Of attlas, not of a paper: maps of every head are brought to mean 0 and variance 1 and averaged; a head's score is
    its correlation with that average, in the mean over the samples. Heads that look at the word everywhere agree with
    nothing.

    Parameters
    ----------
    maps
        ``(sample, layer, head, query_y, query_x)``, from `head_maps`, or word maps whose runs are the samples. Samples
        without a map do not count.

    Returns
    -------
    ``(layer, head)``, float32, in [-1, 1], in memory; NaN: the layer lacks the head. A constant map has correlation 0.
    """
    flat, pairs = flat_maps(maps)
    told = ~np.isnan(flat).any((1, 2, 3))
    if not told.any():
        raise InvalidValueError("no sample has maps of all heads; choose runs whose prompts have the word")
    flat = flat[told]
    values = flat.reshape(len(flat), -1, len(pairs))
    scaled = _standard(values)
    shared = _standard(scaled.mean(-1, keepdims=True))
    scores = (scaled * shared).mean((0, 1))
    made = xr.full_like(maps.isel(sample=0, query_y=0, query_x=0, drop=True), np.nan, dtype=np.float32)
    for (layer, head), score in zip(pairs, scores.tolist(), strict=True):
        made.loc[{"layer": layer, "head": head}] = score
    made.attrs = {"units": "1", "long_name": "agreement of the head's maps with those of all heads"}
    return made


def random_rankings(scores: xr.DataArray, count: int, seed: int = 0) -> list[list[Head]]:
    """Heads that have a score, in `count` random orders: the control of every ranking."""
    return [_shuffled(rank(scores), seed + place) for place in range(count)]


def _of_concept(scores: xr.DataArray, concept: str | None) -> xr.DataArray:
    if "concept" in scores.dims:
        known = [str(name) for name in scores["concept"].values]
        if concept is None:
            raise InvalidValueError(f"the scores are of {len(known)} concepts; name one: {', '.join(known)}")
        if concept not in known:
            raise unknown_name("concept", concept, known)
        return scores.sel(concept=concept, drop=True)
    if concept is not None:
        raise InvalidValueError(f"concept {concept!r} is named, but the scores have dims {tuple(scores.dims)}")
    if set(scores.dims) != {"layer", "head"}:
        raise InvalidValueError(f"scores need dims (layer, head), or concept before them; got {tuple(scores.dims)}")
    return scores


def _count(wanted: float, total: int, name: str) -> int:
    whole = isinstance(wanted, (int, np.integer))
    size = int(wanted) if whole else round(wanted * total)
    if not 1 <= size <= total or (not whole and not 0 < wanted <= 1):
        raise InvalidValueError(
            f"{name}={wanted} takes {size} of {total} heads; 1 to {total}, or a fraction up to 1.0, is accepted"
        )
    return size


def _shuffled(ranked: list[Head], seed: int) -> list[Head]:
    return [ranked[place] for place in np.random.default_rng(seed).permutation(len(ranked))]


def _standard(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean 0 and variance 1 along the cells, axis 1; a constant map is 0."""
    centred = values - values.mean(1, keepdims=True)
    spread = centred.std(1, keepdims=True)
    made: NDArray[np.float32] = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)
    return made
