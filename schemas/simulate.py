"""A small store without a model: random smooth Q and K, written as the recorder would write them.

For examples, tests and dashboards. Everything follows from `seed`; the labels are those of a real recording, and
the image attention can be given a true correspondence, so that a view can be checked against it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attlas.schemas.create import create_store
from attlas.schemas.layout import Leaf
from attlas.schemas.manifest import Manifest
from attlas.schemas.precision import round_factors
from attlas.schemas.store import Store

__all__ = ["attention_arrays", "simulate_store"]

Array = NDArray[np.float32]

ENCODING = {"text": "dense", "image": "factors", "self": "factors"}
CHANNELS = 8
MASKED_WORDS = ("disc", "cross")


def simulate_store(
    path: str | Path | None = None,
    *,
    kinds: tuple[str, ...] = ("text", "image", "self"),
    runs: int = 2,
    branches: tuple[str, ...] = ("uncond", "cond"),
    calls: int = 3,
    layers: int = 2,
    heads: int = 2,
    grid: tuple[int, int] = (4, 4),
    image_size: int = 32,
    encoding: Mapping[str, str] | None = None,
    detail: str = "full",
    precision: str = "exact",
    prompt: str = "a red disc and a blue cross",
    seed: int = 0,
) -> Store:
    """Write a small store of random attention and return it.

    Every query of an image leaf prefers the reference patch mirrored left to right at its own place, which the
    annotation ``correspondence`` says too; query rows of the text leaf prefer the words in turn.

    Examples
    --------
    >>> store = simulate_store(runs=1, kinds=("text",))
    >>> store.run_ids, sorted(store.leaves)
    (['0000'], ['text/4x4'])
    """
    names = prompt.split()
    encodings = {kind: "none" if detail == "summary" else {**ENCODING, **(encoding or {})}[kind] for kind in kinds}
    leaves = [_leaf(kind, grid, heads, layers, len(names) + 3, encodings[kind]) for kind in kinds]
    capture = {"kinds": list(kinds), "detail": detail, "precision": precision, "encoding": "auto"}
    manifest = Manifest("simulated", f"seed-{seed}", "simulated", {"class": "none"}, capture)
    picture = (image_size, image_size)
    reference = picture if "image" in kinds else None
    store = create_store(path, manifest, leaves, branches, calls, picture, reference)
    rng = np.random.default_rng(seed)
    for index in range(runs):
        row = store.claim(f"{index:04d}", seed=index, prompt=prompt, capacity=runs - index)
        _write_tables(store, row, names, rng)
        for name, leaf in store.leaves.items():
            vectors = _vectors(leaf, len(branches), calls, rng)
            if leaf.encoding == "factors":
                vectors = round_factors(*vectors, precision, keys_vary=leaf.keys_vary)
            arrays = attention_arrays(*vectors)
            for variable in leaf.variables():
                if variable.name in arrays:
                    values = arrays[variable.name]
                    if variable.name == "key_vectors" and "t" not in variable.dims:
                        values = values[:, 0]
                    store.write(name, variable.name, row, values)
        store.complete_run(row)
    store.finish()
    return store


def attention_arrays(query_vectors: Array, key_vectors: Array) -> dict[str, Array]:
    """Every array of a leaf from Q (branch, t, layer, head, query, channel) and K (..., key, channel), by numpy.

    Both are rounded to float16 first, as stored. The straightforward derivation, whole arrays at a time: an
    oracle for small stores, not for real ones.
    """
    q = query_vectors.astype(np.float16).astype(np.float32)
    k = key_vectors.astype(np.float16).astype(np.float32)
    logits = q @ np.swapaxes(k, -1, -2)
    top = logits.max(-1, keepdims=True)
    logsumexp = top[..., 0] + np.log(np.exp(logits - top).sum(-1))
    log_attention = logits - logsumexp[..., None]
    attention = np.exp(log_attention)
    over_queries = np.exp(logits - logits.max(-2, keepdims=True))
    over_queries /= over_queries.sum(-2, keepdims=True)
    return {
        "query_vectors": q,
        "key_vectors": k,
        "log_attention": log_attention,
        "logsumexp": logsumexp,
        "g2r": attention.mean(-2),
        "r2g": over_queries.mean(-1),
        "attention_mean": attention.mean(1),
    }


def _leaf(kind: str, grid: tuple[int, int], heads: int, layers: int, tokens: int, encoding: str) -> Leaf:
    paths = tuple(f"blocks.{i}.{'attn1' if kind == 'self' else 'attn2'}" for i in range(layers))
    if kind == "text":
        return Leaf(kind, grid, heads, CHANNELS, paths, tokens, encoding=encoding)
    rows, columns = (axis.ravel() for axis in np.indices(grid))
    first = [-1] if kind == "image" else []
    segments = ["cls"] * len(first) + ["reference" if kind == "image" else "self"] * rows.size
    return Leaf(
        kind,
        grid,
        heads,
        CHANNELS,
        paths,
        len(segments),
        tuple(segments),
        (*first, *(int(v) for v in rows)),
        (*first, *(int(v) for v in columns)),
        encoding=encoding,
        keys_vary=kind == "self",
    )


def _vectors(leaf: Leaf, branches: int, calls: int, rng: np.random.Generator) -> tuple[Array, Array]:
    shape = (branches, calls, len(leaf.layers), leaf.heads)
    keys = rng.normal(size=(branches, 1, len(leaf.layers), leaf.heads, leaf.keys, CHANNELS))
    if leaf.keys_vary:
        keys = keys + 0.3 * rng.normal(size=(*shape, leaf.keys, CHANNELS))
    keys = np.broadcast_to(keys, (*shape, leaf.keys, CHANNELS))
    preferred = _preferred_keys(leaf)
    queries = 0.8 * keys[..., preferred, :] + 0.2 * rng.normal(size=(*shape, leaf.queries, CHANNELS))
    return queries.astype(np.float32), keys.astype(np.float32)


def _preferred_keys(leaf: Leaf) -> NDArray[np.int64]:
    rows, columns = np.divmod(np.arange(leaf.queries), leaf.query_grid[1])
    if leaf.kind == "text":
        return np.asarray(1 + rows % (leaf.keys - 3))
    if leaf.kind == "image":
        return np.asarray(1 + rows * leaf.query_grid[1] + (leaf.query_grid[1] - 1 - columns))
    return np.arange(leaf.queries)


def _write_tables(store: Store, row: int, words: list[str], rng: np.random.Generator) -> None:
    calls, (height, width) = store.calls, store.image_shape
    noise = np.linspace(999, 0, calls)
    store.write_clock(row, steps=range(calls), timesteps=list(noise), sigmas=list(noise / 100))
    y, x = np.indices((height, width))
    picture = np.stack([255 * y // height, 255 * x // width, np.full_like(y, 40 * (row % 6))], -1)
    store.write_image(row, picture.astype(np.uint8))
    annotations: dict[str, Any] = {}
    for place, word in enumerate(word for word in MASKED_WORDS if word in words):
        annotations[word] = x // (width // 2) == place
    if store.reference_shape is not None:
        store.write_reference(row, np.ascontiguousarray(picture[:, ::-1]).astype(np.uint8))
        inside = (abs(y - height / 2) < height / 4) & (abs(x - width / 2) < width / 4)
        true = np.stack([y, width - 1 - x], -1).astype(np.float32)
        annotations |= {
            "garment": inside,
            "reference_garment": inside[:, ::-1],
            "correspondence": np.where(inside[..., None], true, np.nan),
            "quality": float(rng.uniform()),
        }
    store.write_annotations(row, annotations)
    starts = np.cumsum([0, *(len(word) + 1 for word in words[:-1])])
    for name, leaf in store.leaves.items():
        if leaf.kind != "text":
            continue
        for branch, label in enumerate(store.branches):
            shown = words if label == "cond" else []
            pads = leaf.keys - len(shown) - 2
            store.write_tokens(
                name,
                row,
                branch,
                tokens=["<|startoftext|>", *shown, "<|endoftext|>", *["<|endoftext|>"] * pads],
                segments=["bos", *["word"] * len(shown), "eos", *["pad"] * pads],
                starts=[-1, *(int(s) for s in starts[: len(shown)]), *[-1] * (pads + 1)],
                ends=[
                    -1,
                    *(int(s) + len(w) for s, w in zip(starts, shown, strict=False)),
                    *[-1] * (pads + 1),
                ],
            )
