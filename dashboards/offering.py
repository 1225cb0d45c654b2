"""What can be asked of a run, read off its trace."""

import re
from inspect import Parameter

from attlas.analysis import Trace
from attlas.analysis.registry import map_functions
from attlas.analysis.words import prompts, text_kind
from attlas.dashboards.code import ALL_GRIDS
from attlas.dashboards.landing import landing
from attlas.dashboards.questions import Offer
from attlas.schemas.words import covered, spans

__all__ = ["WORD", "offer_of"]

WORD = r"\w+(?:['\u2019-]\w+)*"
"""Pattern of a word of a prompt: letters and digits, joined by apostrophe or hyphen."""


def offer_of(whole: Trace, one: Trace) -> Offer:
    """Say what can be asked of the run of `one`, which is one of those of `whole`."""
    grids: dict[str, dict[str, tuple[int, int]]] = {}
    for leaf in whole.leaves.values():
        grids.setdefault(leaf.kind, {}).setdefault(leaf.grid, (leaf.query_grid[-2], leaf.query_grid[-1]))
    for own in grids.values():
        if len(own) > 1:
            own[ALL_GRIDS] = max(own.values())
    if "text" in grids and ALL_GRIDS in grids["text"]:
        # A word map is made of all grids unless one is chosen.
        grids["text"] = {ALL_GRIDS: grids["text"][ALL_GRIDS], **grids["text"]}
    landings = {kind: landing(whole, kind) for kind in grids}
    key_grids = {kind: own.grid for kind, own in landings.items() if own.grid is not None}
    references = tuple(kind for kind in key_grids if landings[kind].on_reference)
    has_words = any(leaf.has_tokens for leaf in whole.leaves.values())
    words = {branch: _words(one, branch) for branch in whole.branches} if has_words else {}
    nouns = tuple(name for name in map(str, whole.annotations) if name in words.get("cond", ()))
    return Offer(whole.run_ids, whole.branches, grids, key_grids, words, nouns, text_kind(whole), references, _maps())


def _maps() -> tuple[str, ...]:
    """Name the maps that need no more than a trace: the ULAM, and those that are not attlas's own."""
    return tuple(
        name
        for name, made in map_functions().items()
        if (name == "ulam" or not made.source.startswith("attlas.")) and Parameter.empty not in made.options.values()
    )


def _words(one: Trace, branch: str) -> tuple[str, ...]:
    """Words of a branch's prompt in lower case, each once, in order; of a store of some keys those that it keeps."""
    prompt = prompts(one, branch)[0]
    words = tuple(dict.fromkeys(re.findall(WORD, prompt.lower())))
    leaves = [name for name, leaf in one.leaves.items() if leaf.kind == text_kind(one) and leaf.has_tokens]
    if not any(one.leaves[name].partial for name in leaves):
        return words
    tokens = one.tokens(leaves[0]).sel(branch=branch).isel(run=0)
    places = (tokens["token_start"].values, tokens["token_end"].values)
    return tuple(word for word in words if covered(*places, spans(prompt, word)).any())
