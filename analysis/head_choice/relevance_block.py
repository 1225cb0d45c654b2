"""What one block of stored Q answers to the words of concepts."""

from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attlas.analysis.blockwise import kernels
from attlas.analysis.blockwise.fused import Ask, several_means, share_of
from attlas.analysis.blockwise.matrices import Factors
from attlas.analysis.blockwise.room import room_of
from attlas.analysis.papers.vocabulary import Entry, project

__all__ = ["Concepts", "answer_block"]

Concepts = tuple[tuple[Entry, ...], ...]
"""The words of each concept."""

Tokens = tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]
"""Places of the begin tokens, and of the tokens of each concept, among the tokens of all words."""


def answer_block(
    query_vectors: NDArray[Any],
    run: NDArray[np.int64],
    layer: NDArray[np.int64],
    places: NDArray[np.int64],
    projection: NDArray[Any],
    weights: NDArray[np.float32] | None = None,
    *,
    concepts: Concepts,
    tally: str,
    draw: str,
    seed: int,
    calls: int,
    masked: bool,
    device: str,
) -> NDArray[np.float32]:
    """Tallies (run, 1, concept, layer, head) of one run's one layer, summed over the block's calls.

    ``run`` and ``layer`` are numbers made of their names, ``places`` those of the calls, ``weights`` of the queries.
    """
    heads = query_vectors.shape[4]
    embeddings = np.concatenate([word.embeddings for own in concepts for word in own])
    keys = project(embeddings, projection[0], heads, device)
    drawn = _drawn(concepts, draw, [seed, int(run[0]), int(layer[0])], calls)
    alike: dict[Tokens, list[int]] = {}
    for place, call in enumerate(places.tolist()):
        alike.setdefault(drawn[call], []).append(place)
    total = torch.zeros((heads, len(concepts)), device=device)
    with torch.inference_mode():
        share = None if weights is None else torch.from_numpy(weights[0, 0]).to(device)
        for tokens, own in alike.items():
            block = torch.from_numpy(query_vectors[0, 0, own, 0]).to(device)
            total += _tally(_shares(block[..., :-1] if masked else block, keys, tokens, share), tally).sum(0)
    return total.T.cpu().numpy()[None, None, :, None]


def _drawn(concepts: Concepts, draw: str, seed: list[int], calls: int) -> list[Tokens]:
    """Tokens of every call."""
    sizes = [len(word.segments) for own in concepts for word in own]
    starts = iter(accumulate(sizes, initial=0))
    words = [[(next(starts), word) for word in own] for own in concepts]
    if draw == "all":
        return [_tokens(words)] * calls
    chosen = np.random.default_rng(seed).integers([len(own) for own in words], size=(calls, len(words)))
    made: dict[tuple[int, ...], Tokens] = {}
    for row in map(tuple, chosen.tolist()):
        if row not in made:
            made[row] = _tokens([[own[place]] for own, place in zip(words, row, strict=True)])
    return [made[row] for row in map(tuple, chosen.tolist())]


def _tokens(words: list[list[tuple[int, Entry]]]) -> Tokens:
    start, first = words[0][0]
    looked_at = tuple(tuple(at + place for at, word in own for place in word.looked_at) for own in words)
    return tuple(start + place for place in first.begin), looked_at


def _shares(query_vectors: Tensor, keys: Tensor, tokens: Tokens, weights: Tensor | None) -> Tensor:
    """Share (call, head, concept) of each concept in the mean over queries, a mean over its tokens."""
    begin, looked_at = tokens
    own = keys[:, [*begin, *(place for places in looked_at for place in places)]]
    calls, heads, queries = query_vectors.shape[:3]
    flat, stack = query_vectors.reshape(calls * heads, queries, -1), own.repeat(calls, 1, 1)
    share = None if weights is None else share_of(weights.float()).expand(len(flat), queries)
    room, parts = room_of(flat.device), []
    for cut in kernels.blocks(len(flat), queries, own.shape[1], flat.device):
        ask = Ask("g2r", "key", None if share is None else share[cut])
        parts += several_means(Factors(flat[cut], stack[cut], room), [ask])
    by_token = torch.cat(parts).reshape(calls, heads, -1)[..., len(begin) :]
    ends = [0, *accumulate(len(places) for places in looked_at)]
    return torch.stack([by_token[..., a:b].mean(-1) for a, b in pairwise(ends)], -1)


def _tally(shares: Tensor, tally: str) -> Tensor:
    if tally == "share":
        return shares
    won = torch.zeros_like(shares).scatter_(-1, shares.argmax(-1, keepdim=True), 1.0)
    return torch.where(shares.isnan().any(-1, keepdim=True), torch.nan, won)
