"""A small store without a model: random smooth Q and K, written as the recorder would write them.

For examples, tests and dashboards. Everything follows from `seed`; the labels are those of a real recording, and
the image attention can be given a true correspondence, so that a view can be checked against it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attlas.schemas.annotations import Annotation
from attlas.schemas.create import create_store
from attlas.schemas.manifest import Manifest
from attlas.schemas.precision import round_factors
from attlas.schemas.simulated import Scene, output_projection, token_labels, value_vectors, vectors
from attlas.schemas.store import Store

__all__ = ["attention_arrays", "simulate_store"]

Array = NDArray[np.float32]

ENCODING = {"text": "dense", "image": "factors", "self": "factors", "joint": "dense"}
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
    frames: int | None = None,
    references: int = 0,
    masked: bool = False,
    partial: bool = False,
    values: bool = False,
) -> Store:
    """Write a small store of random attention and return it.

    Every query of an image leaf prefers the reference patch mirrored left to right at its own place, which the
    annotation ``correspondence`` says too; query rows of the text leaf prefer the words in turn. Queries of a
    joint leaf do both; without a reference they prefer their own place to a mirrored one.

    Parameters
    ----------
    path
        Folder to create; None keeps the store in memory.
    kinds
        Kinds of attention, a leaf each; ``joint`` is the text, the generated picture and its references.
    runs, branches, calls, layers, heads, grid, image_size
        Sizes of everything.
    encoding
        Encoding of kinds that are not to have that of a recording.
    detail, precision
        As in a recording; they count for all leaves.
    prompt
        Prompt of every run; the branch ``cond`` alone is conditioned on it.
    seed
        All numbers follow from it.
    frames
        Latent frames of a video; None for pictures. The video has four times as many less three.
    references
        Reference pictures in a joint sequence.
    masked
        Mask the padding of texts, and give them room that no run fills.
    partial
        Keep of text keys those of words alone, and of joint keys those of the text.
    values
        Keep V and W_o too, without a change of any other number.

    Examples
    --------
    >>> store = simulate_store(runs=1, kinds=("text",))
    >>> store.run_ids, sorted(store.leaves)
    (['0000'], ['text/4x4'])
    """
    names = prompt.split()
    encodings = {kind: "none" if detail == "summary" else {**ENCODING, **(encoding or {})}[kind] for kind in kinds}
    shape = grid if frames is None else (frames, *grid)
    scene = Scene(shape, heads, layers, tuple(names), references, masked, partial, values)
    leaves = [scene.leaf(kind, encodings[kind]) for kind in kinds]
    capture = {"kinds": list(kinds), "detail": detail, "precision": precision, "encoding": "auto"}
    manifest = Manifest("simulated", f"seed-{seed}", "simulated", {"class": "none"}, capture)
    picture = (image_size, image_size)
    reference = picture if "image" in kinds or ("joint" in kinds and references) else None
    shown = None if frames is None else 4 * frames - 3
    store = create_store(path, manifest, leaves, branches, calls, picture, reference, frames=shown)
    rng, own = np.random.default_rng(seed), np.random.default_rng((seed, 1))
    for name, leaf in store.leaves.items():
        if leaf.output_features:
            store.write_fixed(f"{name}/output_projection", output_projection(leaf, own))
    for index in range(runs):
        row = store.claim(f"{index:04d}", seed=index, prompt=prompt, capacity=runs - index)
        _write_tables(store, row, scene, rng)
        for name, leaf in store.leaves.items():
            drawn = vectors(scene.whole(leaf), [_shown(label, scene) for label in branches], calls, rng)
            if leaf.encoding == "factors":
                drawn = round_factors(*drawn, precision, keys_vary=leaf.keys_vary, masked=leaf.masked)
            arrays = attention_arrays(*drawn, scene.kept(leaf))
            arrays["computed"] = np.ones((len(branches), calls, layers), bool)
            if leaf.value_channels:
                arrays["value_vectors"] = value_vectors(leaf, len(branches), calls, own)
            for variable in leaf.variables():
                if variable.name in arrays:
                    stored = arrays[variable.name]
                    if variable.name in ("key_vectors", "value_vectors") and "t" not in variable.dims:
                        stored = stored[:, 0]
                    store.write(name, variable.name, row, stored if variable.scale == 1 else stored / variable.scale)
        store.complete_runs([row], settle=False)
    store.finish()
    return store


def attention_arrays(query_vectors: Array, key_vectors: Array, kept: slice = slice(None)) -> dict[str, NDArray[Any]]:
    """Every array of a leaf from Q (branch, t, layer, head, query, channel) and K (..., key, channel), by numpy.

    Both are rounded to float16 first, as stored; what comes out are the values, before any scale of their array. The
    straightforward derivation, whole arrays at a time: an oracle for small stores, not for real ones. `kept` are the
    keys that a partial leaf keeps of those that take part.
    """
    q = query_vectors.astype(np.float16).astype(np.float32)
    k = key_vectors.astype(np.float16).astype(np.float32)
    logits = q @ np.swapaxes(k, -1, -2)
    top = logits.max(-1, keepdims=True)
    logsumexp = top[..., 0] + np.log(np.exp(logits - top).sum(-1))
    log_attention = (logits - logsumexp[..., None])[..., kept]
    attention = np.exp(log_attention)
    # A key that is masked for every query has no softmax over queries and counts as 0.
    highest = logits.max(-2, keepdims=True)
    over_queries = np.exp(logits - np.where(np.isneginf(highest), 0, highest))
    over_queries /= np.maximum(over_queries.sum(-2, keepdims=True), np.finfo(np.float32).tiny)
    return {
        "query_vectors": q,
        "key_vectors": k,
        "log_attention": log_attention,
        "logsumexp": logsumexp,
        "g2r": attention.mean(-2),
        "r2g": over_queries[..., kept].mean(-1),
        "attention_mean": attention.mean(1),
        "attention_mean_r2g": over_queries[..., kept].mean(1),
    }


def _write_tables(store: Store, row: int, scene: Scene, rng: np.random.Generator) -> None:
    calls, (height, width) = store.calls, store.image_shape
    noise = np.linspace(999, 0, calls)
    store.write_clock(row, steps=range(calls), timesteps=list(noise), sigmas=list(noise / 100))
    y, x = np.indices((height, width))
    picture = np.stack([255 * y // height, 255 * x // width, np.full_like(y, 40 * (row % 6))], -1)
    store.write_image(row, picture.astype(np.uint8))
    if store.frames is not None:
        moved = [np.roll(picture, frame - store.frames // 2, 1) for frame in range(store.frames)]
        store.write_video(row, np.stack(moved).astype(np.uint8))
    annotations: dict[str, Any] = {}
    for place, word in enumerate(word for word in MASKED_WORDS if word in scene.words):
        annotations[word] = x // (width // 2) == place
    if store.reference_shape is not None:
        store.write_reference(row, np.ascontiguousarray(picture[:, ::-1]).astype(np.uint8))
        inside = (abs(y - height / 2) < height / 4) & (abs(x - width / 2) < width / 4)
        true = np.stack([y, width - 1 - x], -1).astype(np.float32)
        annotations |= {
            "garment": Annotation(inside, "object"),
            "reference_garment": Annotation(inside[:, ::-1], "reference_object"),
            "correspondence": Annotation(np.where(inside[..., None], true, np.nan), "correspondence"),
            "quality": float(rng.uniform()),
        }
    store.write_annotations(row, annotations)
    for name, leaf in store.leaves.items():
        if leaf.has_tokens:
            for branch, label in enumerate(store.branches):
                store.write_tokens(name, row, branch, **token_labels(leaf, scene, _shown(label, scene)))


def _shown(branch: str, scene: Scene) -> tuple[str, ...]:
    """Words that a branch is conditioned on."""
    return scene.words if branch == "cond" else ()
