"""Stores of the dashboard's tests: simulated, with a correspondence that is known (mirrored left to right)."""

import numpy as np
import pytest

from attlas.dashboards.data import Catalogue
from attlas.dashboards.state import BenchState
from attlas.schemas import Leaf, Manifest, create_store, simulate_store
from attlas.schemas.simulate import attention_arrays

HOSTILE = "a <img src=x onerror=alert(1)> disc & <b>cross</b>"


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder with a full store, a summary, one with a hostile prompt, and one of several grids and head counts."""
    made = tmp_path_factory.mktemp("stores")
    simulate_store(made / "full.zarr", runs=3)
    simulate_store(made / "summary.zarr", runs=1, detail="summary")
    simulate_store(made / "hostile.zarr", runs=1, kinds=("text", "image"), prompt=HOSTILE)
    simulate_store(made / "words.zarr", runs=1, kinds=("text",))
    several_grids(made / "grids.zarr")
    return made


def several_grids(path):
    """Image leaves 4x4 with 2 heads and 2x2 with 4 heads; text leaves 4x4 and 2x2 with 2 heads each."""
    words = ["a", "disc"]
    leaves = [patches((4, 4), 2), patches((2, 2), 4)]
    leaves += [Leaf("text", grid, 2, 4, (f"text.{grid[0]}",), 5, encoding="dense") for grid in ((4, 4), (2, 2))]
    store = create_store(path, Manifest("m", "d", "p"), leaves, ("cond",), 3, (32, 32), (32, 32))
    rng = np.random.default_rng(1)
    row = store.claim("0000", prompt=" ".join(words))
    store.write_clock(row, steps=range(3), timesteps=[9, 5, 1], sigmas=[9, 5, 1])
    for name, leaf in store.leaves.items():
        shape = (1, 3, 1, leaf.heads)
        queries = rng.normal(size=(*shape, leaf.queries, 4)).astype("f4")
        arrays = attention_arrays(queries, rng.normal(size=(*shape, leaf.keys, 4)).astype("f4"))
        for variable in leaf.variables():
            if variable.name in arrays:
                store.write(name, variable.name, row, arrays[variable.name])
        if leaf.kind == "text":
            store.write_tokens(
                name,
                row,
                0,
                tokens=["<", *words, ">", ">"],
                segments=["bos", "word", "word", "eos", "pad"],
                starts=[-1, 0, 2, -1, -1],
                ends=[-1, 1, 6, -1, -1],
            )
    store.write_image(row, np.full((32, 32, 3), 90, "u1"))
    store.write_reference(row, np.full((32, 32, 3), 160, "u1"))
    store.complete_run(row)
    store.finish()


def patches(grid, heads):
    rows, columns = (axis.ravel().tolist() for axis in np.indices((4, 4)))
    return Leaf(
        "image",
        grid,
        heads,
        4,
        (f"image.{grid[0]}",),
        16,
        ("reference",) * 16,
        tuple(rows),
        tuple(columns),
        encoding="dense",
    )


@pytest.fixture
def catalogue(folder):
    return Catalogue([folder])


@pytest.fixture
def state(catalogue):
    return BenchState(catalogue, "full.zarr")
