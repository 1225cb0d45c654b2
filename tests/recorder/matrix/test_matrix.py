"""The architecture matrix: each row recorded, and compared with what its attention kernels got and gave."""

import contextlib
import itertools
import re

import numpy as np
import pytest
from fidelity import assert_as_found, assert_faithful, processors
from matrix.rows import Row, rows, segments

from attlas.recorder import Capture, Recorder
from attlas.schemas import open_store

pytestmark = [
    # Of torch and diffusers, about numpy's next version.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
    # T2I-Adapter's pipeline calls it.
    pytest.mark.filterwarnings("ignore:The decode_latents method:FutureWarning"),
]

ROWS = rows()


def named(chosen):
    return pytest.mark.parametrize("row", chosen, ids=[re.sub(r"\W+", "-", row.name.lower()) for row in chosen])


@named([row for row in ROWS if not row.reason])
def test_a_recording_is_faithful(row: Row):
    pipe = row.build()
    assert type(pipe).__name__ == row.pipeline
    request = row.request(pipe) if callable(row.request) else row.request
    warned = pytest.warns(UserWarning, match="softmax over keys is 1") if row.inert else contextlib.nullcontext()
    with warned:
        store = assert_faithful(
            pipe,
            request,
            Capture(**row.capture),
            branches=row.branches,
            passes=row.passes,
            denoiser=row.denoiser,
            relay=row.relay,
            queries=row.queries,
            keys=row.keys,
        )
    wanted = row.capture.get("branches", "all")
    kept = row.branches if wanted == "all" else tuple(name for name in row.branches if name in wanted)
    assert store.branches == kept
    assert set(store.leaves) == set(row.leaves)
    assert {name: keys_of(store, name) for name in store.leaves} == dict(row.leaves)
    for name, leaf in store.leaves.items():
        check_places(store, name)
        if isinstance(row.capture.get("heads", None), type(None)):
            model = getattr(pipe, row.denoiser)
            assert {heads_of(model, label) for label in leaf.layers} == {leaf.heads}
        if leaf.has_tokens:
            assert {word: places_of(store, name, word) for word in row.words} == dict(row.words)
    check_clock(store, row)
    check_spelling(store, request)


def check_spelling(store, request):
    """Word tokens of every run and branch spell that run's prompt, or its negative prompt, each character once."""
    each, runs = int(request.get("num_images_per_prompt", 1)), len(store.run_ids)
    negative = request.get("negative_prompt") or ""
    negatives = negative if isinstance(negative, list) else [negative] * runs
    for name in [name for name, leaf in store.leaves.items() if leaf.kind == "text" and not leaf.partial]:
        node = store.group[name]
        for run, (number, branch) in itertools.product(range(runs), enumerate(store.branches)):
            text = str(store.group["prompt"][run]) if branch == "cond" else negatives[run // each]
            ends = zip(node["token_start"][run, number], node["token_end"][run, number], strict=True)
            spans = sorted({(int(start), int(end)) for start, end in ends if end > start})
            assert "".join(text[start:end] for start, end in spans).replace(" ", "") == text.replace(" ", ""), name


def heads_of(model, label):
    """Heads of the module that a layer's label names."""
    return model.get_submodule(label.partition(".processor.")[0]).heads


def keys_of(store, name):
    """Segments of a leaf's keys, as rows spell them."""
    leaf = store.leaves[name]
    if leaf.kind == "text":
        return segments([str(label) for label in store.group[name]["token_segment"][0, store.branches.index("cond")]])
    several = max(leaf.key_picture) > 0
    return segments(
        f"{label} {picture}" if several and picture >= 0 else label
        for label, picture in zip(leaf.key_segments, leaf.key_picture, strict=True)
    )


def places_of(store, name, word):
    """Keys whose characters lie in the first run's word."""
    node, prompt, cond = store.group[name], str(store.group["prompt"][0]), store.branches.index("cond")
    first = prompt.index(word)
    starts, ends = node["token_start"][0, cond], node["token_end"][0, cond]
    return tuple(int(key) for key in np.flatnonzero((starts >= first) & (ends <= first + len(word)) & (ends > starts)))


def check_places(store, name):
    """Queries, and keys that are patches of one picture, stand row by row in their grids, frame by frame."""
    node, leaf = store.group[name], store.leaves[name]
    assert f"{leaf.kind}/{'x'.join(map(str, leaf.query_grid))}" in name
    grid = [place.ravel() for place in np.indices(leaf.query_grid)]
    names = ["query_y", "query_x"] if len(grid) == 2 else ["query_frame", "query_y", "query_x"]
    for axis, places in zip(names, grid, strict=True):
        np.testing.assert_array_equal(node[axis][...], places)
    own = [key for key, label in enumerate(leaf.key_segments) if label in ("self", "generated")]
    if own:
        for axis, places in zip(names, grid, strict=True):
            np.testing.assert_array_equal(node[axis.replace("query", "key")][...][own], places)


def check_clock(store, row):
    assert store.calls == row.calls
    for run in range(len(store.run_ids)):
        steps = [int(step) for step in store.group["step"][run]]
        assert steps == list(row.steps or range(row.calls))
        timesteps, sigmas = store.group["timestep"][run], store.group["sigma"][run]
        assert (np.diff(timesteps) <= 0).all()
        assert (np.diff(sigmas) <= 1e-6).all()
        assert (sigmas >= 0).all()


@named([row for row in ROWS if row.reason])
def test_what_cannot_be_recorded_says_why(row: Row, tmp_path):
    pipe = row.build()
    assert type(pipe).__name__ == row.pipeline
    kind, words = row.error
    request = row.request(pipe) if callable(row.request) else row.request
    with pytest.raises(kind, match=words), Recorder(pipe, tmp_path / "s.zarr", Capture(**row.capture)) as rec:
        rec(**{"seed": 0, "num_inference_steps": 2, "output_type": "np", **request})
    if (tmp_path / "s.zarr").exists():
        assert not open_store(tmp_path / "s.zarr").complete.any()
    # Its processors may be others: some pipelines put in their own, and do not take them back after an error.
    for model in (part for name, part in pipe.components.items() if part and name in ("unet", "transformer")):
        assert_as_found(model, {name: id(processor) for name, processor in processors(model).items()})
