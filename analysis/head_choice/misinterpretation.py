"""What a word's heads really answer where they look: the report that shows a misread word."""

from collections.abc import Iterable, Mapping
from typing import Any

import xarray as xr

from attlas.analysis.aggregation.selection import Heads
from attlas.analysis.blockwise.attention import run_coords
from attlas.analysis.head_choice.relevance import Words, answers, mean_and_spread
from attlas.analysis.normalise import threshold
from attlas.analysis.papers.daam import daam
from attlas.analysis.trace import Trace
from attlas.analysis.words import has_word, prompts
from attlas.schemas.errors import InvalidValueError, NotRecordedError, unknown_name

__all__ = ["misinterpretation"]

RUNS_TOGETHER = 128


def misinterpretation(
    trace: Trace,
    concepts: Words,
    *,
    words: Iterable[str] | None = None,
    heads: xr.DataArray | None = None,
    region: str | Mapping[str, Any] = "map",
    region_heads: Heads = None,
    tau: float = 0.5,
    baseline: bool = True,
    **options: Any,
) -> xr.Dataset:
    """Which concepts the heads answer at the place of each word, in each run.

    The place is where the word's own map is high. There the keys of one word per concept are asked, as for the
    relevance vectors, and each head answers with the concept whose share is the largest, or, with `baseline`, exceeds
    most what that head gives the concept at all places of the report, in standard deviations: heads prefer words
    whatever the picture shows. A word whose heads answer its own concept was understood.

    Parameters
    ----------
    trace
        From `open_trace`; its text leaves keep Q and W_k.
    concepts
        Name of each concept, and its word or words, all in the store's vocabulary.
    words
        Words of the prompts to report; by default those of the concepts that stand in any prompt.
    heads
        Weights ``(layer, head)`` of the heads that answer, from `select`, or ``(word, layer, head)``, each word's own;
        by default all alike.
    region
        ``map``: where the word's map is at least `tau` of its maximum. Or masks by word, ``(run, y, x)`` as `aggregate`
        takes them.
    region_heads
        Heads whose maps give the place; by default all.
    tau
        Threshold of the place, relative to the map's maximum.
    baseline
        Whether shares are taken relative to the mean and spread over all reported words and runs, which needs runs
        that differ.
    **options
        ``draw``, ``seed``, ``layers``, ``steps``, ``branch`` of `answers`.

    Returns
    -------
    Lazy, in unit 1: ``concept_share (run, word, concept)``, weighted share of the heads that answer each concept, which
    sum to 1; ``margin (run, word)``, share of the word's own concept less the largest other one, in [-1, 1]: below 0
    the word was answered as something else; ``answer (run, word)``, place of the largest share among the concepts, -1
    if none. Coordinate ``own (word)`` is the word's concept. Runs without the word are NaN.

    Raises
    ------
    InvalidValueError
        If a word belongs to no concept or to two, or no head has a weight.
    NotRecordedError
        If no prompt has any of the words.
    UnknownNameError
        For a word that `region` lacks, or a region of another name.
    """
    owners = _owners(concepts)
    wanted = _wanted(trace, owners, words, options.get("branch", "cond"))
    texts = prompts(trace, options.get("branch", "cond"))
    parts = []
    for word in wanted:
        # Only runs with the word are read.
        held = trace.isel([place for place, text in enumerate(texts) if has_word(text, word)])
        place = _region(held, word, region, region_heads, tau, options)
        made = answers(held, concepts, tally="share", queries=place, **options)
        parts.append(made.reset_coords(drop=True).reindex(run=list(trace.run_ids)))
    shares = xr.concat(parts, "word", coords="minimal", compat="override", combine_attrs="override")
    # What follows is small, and would be many tasks if each run and layer stayed a chunk of its own.
    shares = shares.chunk(run=RUNS_TOGETHER, word=-1, layer=-1).assign_coords(run_coords(trace))
    if baseline:
        mean, spread = mean_and_spread(shares, ("run", "word"))
        shares = (shares - mean) / spread.where(spread > 0, 1)
    best = shares.max("concept")
    won = (shares == best).where(best.notnull())
    won = won / won.sum("concept")  # equal shares are divided
    like = won.isel(run=0, word=0, concept=0, drop=True)
    if heads is None:
        weights = xr.ones_like(like)
    else:
        weights = heads.fillna(0).reindex(layer=like["layer"], head=like["head"], fill_value=0)
        if not float(weights.sum()) > 0:
            raise InvalidValueError("no head that answers has a weight; the weights are of other layers, or all 0")
    counted = weights.where(won.notnull().all("concept"))
    share = (won * counted).sum(("layer", "head"), min_count=1) / counted.sum(("layer", "head"), min_count=1)
    share = share.transpose("run", "word", "concept").assign_coords(
        word=wanted, own=("word", [owners[w] for w in wanted])
    )
    mine = share["concept"] == share["own"]
    margin = share.where(mine).max("concept") - share.where(~mine).max("concept")
    answer = share.fillna(-1).argmax("concept").where(share.notnull().all("concept"), -1)
    report = xr.Dataset({"concept_share": share, "margin": margin, "answer": answer})
    for name, text in (
        ("concept_share", "share of the heads that answer the concept at the word's place"),
        ("margin", "share of the word's own concept less the largest other"),
        ("answer", "place of the concept with the largest share, -1 if none"),
    ):
        report[name].attrs = {"units": "1", "long_name": text}
    return report.assign_attrs(
        region="map" if isinstance(region, str) else "masks", tau=tau, baseline=int(baseline), words=", ".join(wanted)
    )


def _owners(concepts: Words) -> dict[str, str]:
    """Concept of each word."""
    owners: dict[str, str] = {}
    for concept, words in concepts.items():
        for word in [words] if isinstance(words, str) else words:
            if word in owners:
                raise InvalidValueError(f"word {word!r} belongs to two concepts, {owners[word]!r} and {concept!r}")
            owners[word] = concept
    return owners


def _wanted(trace: Trace, owners: Mapping[str, str], words: Iterable[str] | None, branch: str) -> list[str]:
    texts = prompts(trace, branch)
    listed = list(owners) if words is None else list(words)
    for word in listed:
        if word not in owners:
            raise unknown_name("word", word, owners, where="the concepts")
    held = [word for word in listed if any(has_word(text, word) for text in texts)]
    if not held:
        raise NotRecordedError(f"{trace.where}: no prompt has any of the words {', '.join(listed)}")
    return held


def _region(
    trace: Trace,
    word: str,
    region: str | Mapping[str, Any],
    heads: Heads,
    tau: float,
    options: Mapping[str, Any],
) -> xr.DataArray:
    """Mask (run, row, column) of the word's place; NaN in runs without the word."""
    if not isinstance(region, str):
        if word not in region:
            raise unknown_name("word", word, [str(name) for name in region], where="the regions")
        found: xr.DataArray = region[word]
        return found
    if region != "map":
        raise unknown_name("region", region, ["map"])
    own = {name: options[name] for name in ("layers", "steps", "branch") if name in options}
    made = threshold(daam(trace, word, variant="released", heads=heads, **own), tau, rule="max")
    return made.reset_coords(drop=True)
