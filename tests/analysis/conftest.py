"""Hand-made stores from known Q and K, and straightforward numpy in float64 to check maps against."""

from dataclasses import replace
from types import SimpleNamespace

import dask
import numpy as np
import pytest

from attlas.analysis import open_trace
from attlas.schemas import Leaf, Manifest, create_store
from attlas.schemas.vocabulary import Vocabulary, vocabulary_arrays


def softmax(logits, axis):
    e = np.exp(logits - logits.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def leaf_of(
    kind, grid, heads=2, layers=1, key_grid=None, keys=None, encoding="factors", cls=False, channels=4, name=""
):
    paths = tuple(f"{kind}{grid[0]}{name}.{i}.attn" for i in range(layers))
    if kind == "text":
        return Leaf(kind, grid, heads, channels, paths, keys or 6, encoding=encoding)
    rows, columns = (axis.ravel().tolist() for axis in np.indices(key_grid or grid))
    extra = [-1] if cls else []
    segments = ["cls"] * len(extra) + ["self" if kind == "self" else "reference"] * len(rows)
    return Leaf(
        kind, grid, heads, channels, paths, len(segments), tuple(segments), (*extra, *rows), (*extra, *columns),
        encoding=encoding, keys_vary=kind == "self",
    )  # fmt: skip


def make_store(
    leaves,
    *,
    path=None,
    runs=2,
    calls=3,
    branches=("uncond", "cond"),
    prompts=None,
    tokens=None,
    steps=None,
    detail="full",
    seed=0,
    spread=1.0,
    image=(16, 16),
    reference=(16, 16),
    annotations=None,
    complete=None,
    alter=None,
):
    """Write random Q and K (or what `alter` makes of them); return the store, and both in float64 by (leaf, row)."""
    rng = np.random.default_rng(seed)
    manifest = Manifest("by hand", "0", "none", {}, {"precision": "exact", "detail": detail})
    store = create_store(path, manifest, leaves, branches, calls, image, reference)
    vectors = {}
    for row in range(runs):
        prompt = prompts[row] if prompts else "a red disc and a blue cross"
        assert store.claim(f"run{row}", seed=row, prompt=prompt, capacity=runs - row) == row
        noise = np.linspace(999, 0, calls)
        store.write_clock(row, steps=steps or range(calls), timesteps=list(noise), sigmas=list(noise / 100))
        store.write_image(row, rng.integers(0, 255, (*image, 3), dtype=np.uint8))
        if reference:
            store.write_reference(row, rng.integers(0, 255, (*reference, 3), dtype=np.uint8))
        for name, leaf in store.leaves.items():
            shape = (len(branches), calls, len(leaf.layers), leaf.heads)
            q = (spread * rng.normal(size=(*shape, leaf.queries, leaf.channels))).astype("f2").astype("f8")
            moving = calls if leaf.keys_vary else 1
            k = rng.normal(size=(len(branches), moving, len(leaf.layers), leaf.heads, leaf.keys, leaf.channels))
            k = np.broadcast_to(k.astype("f2").astype("f8"), (*shape, leaf.keys, leaf.channels))
            if alter:
                q, k = (array.astype("f2").astype("f8") for array in alter(name, row, q, k.copy()))
            vectors[name, row] = (q, k)
            write_leaf(store, name, row, q, k)
            if leaf.has_tokens:
                for branch in range(len(branches)):
                    write_words(store, name, row, branch, prompt if branches[branch] == "cond" else "", tokens)
        store.write_annotations(row, annotations(row) if annotations else {})
        # A run that is not completed is still being recorded.
        if complete is None or row in complete:
            store.complete_run(row)
    store.finish()
    return store, vectors


def write_leaf(store, name, row, q, k):
    leaf = store.leaves[name]
    logits = q @ np.swapaxes(k, -1, -2)
    p, r = softmax(logits, -1), softmax(logits, -2)
    top = logits.max(-1)
    lse = top + np.log(np.exp(logits - top[..., None]).sum(-1))
    arrays = {
        "query_vectors": q, "key_vectors": k if leaf.keys_vary else k[:, 0], "log_attention": np.log(p),
        "logsumexp": lse, "g2r": p.mean(-2), "r2g": r.mean(-1), "attention_mean": p.mean(1),
        "attention_mean_r2g": r.mean(1), "computed": np.ones(q.shape[:3], bool),
    }  # fmt: skip
    for variable in leaf.variables():
        if variable.name in arrays:
            layout = store.layout(name, variable.name)
            values = arrays[variable.name] / variable.scale if variable.scale != 1 else arrays[variable.name]
            t, layer = (layout.dims.index(dim) - 1 if dim in layout.dims else None for dim in ("t", "layer"))
            for t0 in range(0, store.calls if t is not None else 1, layout.t_block):
                for l0 in range(0, len(leaf.layers), layout.layer_block):
                    place = [slice(None)] * values.ndim
                    place[layer] = slice(l0, l0 + layout.layer_block)
                    if t is not None:
                        place[t] = slice(t0, t0 + layout.t_block)
                    store.write(
                        name, variable.name, row, values[tuple(place)], t0=t0 if t is not None else 0, layer0=l0
                    )


def write_words(store, name, row, branch, prompt, tokens=None):
    """One token a word, or the given (text, start, end), between begin and end marks."""
    leaf = store.leaves[name]
    keys = leaf.keys if leaf.kind == "text" else leaf.key_segments.count("text")
    before = leaf.key_segments.index("text") if leaf.key_segments else 0
    after = leaf.keys - keys - before
    if tokens is None or not prompt:
        words, at = [], 0
        for word in prompt.split():
            at = prompt.index(word, at)
            words.append((word, at, at + len(word)))
            at += len(word)
    else:
        words = tokens
    words = words[: keys - 2]
    pads = keys - len(words) - 1
    store.write_tokens(
        name, row, branch,
        tokens=[*[""] * before, "<bos>", *[word for word, _, _ in words], *["<eos>"] * pads, *[""] * after],
        segments=[*[""] * before, "bos", *["word"] * len(words), "eos", *["pad"] * (pads - 1), *[""] * after],
        starts=[*[-1] * before, -1, *[start for _, start, _ in words], *[-1] * (pads + after)],
        ends=[*[-1] * before, -1, *[end for _, _, end in words], *[-1] * (pads + after)],
    )  # fmt: skip


def add_vocabulary(store, words, seed=5):
    """Give a store embeddings of words, each a list of tokens, and W_k; return both in float64 as stored."""
    rng = np.random.default_rng(seed)
    features = next(leaf.features for leaf in store.leaves.values() if leaf.features)
    begin = rng.normal(size=(1, features))
    embeddings = {
        word: np.concatenate([begin, rng.normal(size=(len(tokens) + 1, features))]).astype("f4")
        for word, tokens in words.items()
    }
    nodes, arrays = vocabulary_arrays(
        Vocabulary(
            tuple(words),
            tuple(("<bos>", *tokens, "<eos>") for tokens in words.values()),
            tuple(("bos", *["word"] * len(tokens), "eos") for tokens in words.values()),
            tuple(embeddings.values()),
        )
    )
    with store.locked():
        store.add_nodes(nodes)
    for name, values in arrays.items():
        store.write_fixed(name, values)
    weights = {}
    for name, leaf in store.leaves.items():
        if leaf.features:
            shape = (len(leaf.layers), features, leaf.heads * (leaf.channels - leaf.masked))
            weights[name] = rng.normal(size=shape).astype("f2")
            store.write_projection(name, list(weights[name]))
    return embeddings, {name: values.astype("f8") for name, values in weights.items()}


class CountingScheduler:
    """A dask scheduler that counts, or forbids, computing."""

    def __init__(self, limit=0):
        self.limit, self.count = limit, 0

    def __call__(self, graph, keys, **kwargs):
        self.count += 1
        assert self.count <= self.limit, f"computed {self.count} times, {self.limit} allowed"
        return dask.get(graph, keys, **kwargs)


@pytest.fixture(scope="session")
def tools():
    return SimpleNamespace(
        softmax=softmax,
        leaf_of=leaf_of,
        make_store=make_store,
        write_leaf=write_leaf,
        write_words=write_words,
        add_vocabulary=add_vocabulary,
    )


@pytest.fixture
def computes():
    """`with computes(n):` fails if dask computes more than n times inside."""
    return lambda limit=0: dask.config.set(scheduler=CountingScheduler(limit))


@pytest.fixture(scope="session")
def mixed(tools):
    """Image attention at two grids (with CLS), text at two grids with different heads, self-attention."""
    leaves = (
        leaf_of("image", (4, 4), layers=2, key_grid=(4, 3), cls=True),
        leaf_of("image", (2, 2), layers=1, key_grid=(4, 3), cls=True),
        leaf_of("text", (4, 4), keys=10, layers=2, encoding="dense"),
        leaf_of("text", (2, 2), keys=10, heads=3, layers=1),
        leaf_of("self", (4, 4), layers=1),
        leaf_of("self", (2, 2), layers=1),
    )
    store, vectors = make_store(leaves)
    return SimpleNamespace(store=store, vectors=vectors, trace=open_trace(store))


@pytest.fixture(scope="session")
def worded(tools):
    """Text attention of two grids with different heads, and a vocabulary; the oracle's keys of each of its texts."""
    leaves = (
        replace(leaf_of("text", (4, 4), keys=7, layers=2), features=5),
        replace(leaf_of("text", (2, 2), heads=3, keys=7), features=5),
    )
    store, vectors = make_store(leaves, runs=3, prompts=["a red cat", "a blue dog", "one red dog"])
    words = {
        "cat": ["cat</w>"], "dog": ["dog</w>"], "puppy": ["pup", "py</w>"], "red": ["red</w>"], "blue": ["blue</w>"],
        "a red cat": ["a</w>", "red</w>", "cat</w>"],
    }  # fmt: skip
    embeddings, weights = add_vocabulary(store, words)

    def keys(leaf, text):
        """K (layer, head, token, channel) of a text."""
        geometry = store.leaves[leaf]
        made = np.einsum("kf,lfc->lkc", embeddings[text].astype("f8"), weights[leaf])
        split = made.reshape(*made.shape[:2], geometry.heads, geometry.channels)
        return split.transpose(0, 2, 1, 3)

    return SimpleNamespace(store=store, vectors=vectors, trace=open_trace(store), keys=keys)
