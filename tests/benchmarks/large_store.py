"""Make a store of any size: real runs of the try-on demo at a larger picture, and copies of them as further runs.

Run as a program: ``python tests/benchmarks/large_store.py [FOLDER] [--gigabytes 20] [--scale 4] [--encoding dense]``.
The folder, by default attlas-large.zarr among the temporary files, must be new. Copies are files of their own, so that
a survey reads as many bytes as of recorded runs. Nothing of it is for committing.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch.nn.functional as F
import zarr
from tqdm import tqdm

from attlas.recorder import Capture, record
from attlas.recorder.demo import tryon
from attlas.schemas import Annotation, Store

CLAIMED = ("run", "prompt", "seed", "request", "complete")


def enlarged(request: dict, scale: int) -> dict:
    """The request at `scale` times the rows and columns."""

    def larger(values):
        return np.repeat(np.repeat(np.asarray(values), scale, 0), scale, 1)

    pictures = ("reference_image", "figure_image", "mask_image", "body_uv")
    given = request["annotations"]
    masks = {
        name: Annotation(larger(given[name].values), given[name].role) for name in ("garment", "reference_garment")
    }
    return {**request, **{name: larger(request[name]) for name in pictures}, "annotations": masks}


def record_some(path: Path, runs: int, scale: int, encoding: str, steps: int) -> Store:
    pipe = tryon.load()
    pipe.unet.register_to_config(sample_size=scale * pipe.unet.config.sample_size)
    encode = pipe.encode_reference
    # The encoder takes the demo's own size only.
    pipe.encode_reference = lambda pictures: encode(F.avg_pool2d(pictures, scale))
    requests = [{**enlarged(request, scale), "num_inference_steps": steps} for request in tryon.requests(runs)]
    return record(pipe, path, requests, Capture(kinds="image", detail="full", encoding=encoding))


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def copy_runs(store: Store, path: Path, copies: int) -> None:
    """Further runs with the shards of the recorded ones, in turn."""
    recorded = len(store.run_ids)
    rows = {}
    for number in range(copies):
        source = number % recorded
        name = f"{store.run_ids[source]}-copy{number // recorded}"
        rows[store.claim(name, seed=number, capacity=copies - number)] = source
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    arrays = [(name, own) for name, own in group.members(max_depth=None) if isinstance(own, zarr.Array)]
    arrays = [(n, a) for n, a in arrays if (a.metadata.dimension_names or ("",))[0] == "run" and n not in CLAIMED]
    for row, source in tqdm(rows.items(), desc="copy", unit="run"):
        for name, array in arrays:
            if (array.shards or array.chunks)[0] == 1:
                shutil.copytree(path / name / "c" / str(source), path / name / "c" / str(row))
            else:
                array[row] = array[source]
        store.complete_run(row)
    store.finish()


def make(path: Path, *, gigabytes: float, recorded: int, scale: int, encoding: str, steps: int = 20) -> Store:
    """Record, then copy until the folder holds so many gigabytes."""
    store = record_some(path, recorded, scale, encoding, steps)
    one = size_of(path) / recorded
    copy_runs(store, path, max(0, round(gigabytes * 1e9 / one + 0.5) - recorded))
    return store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path(tempfile.gettempdir()) / "attlas-large.zarr")
    parser.add_argument("--gigabytes", type=float, default=20)
    parser.add_argument("--recorded", type=int, default=4, help="runs that the pipeline makes")
    parser.add_argument("--scale", type=int, default=4, help="times the demo's 64x64 picture")
    parser.add_argument("--encoding", choices=("dense", "factors"), default="dense")
    asked = vars(parser.parse_args())
    path = asked.pop("folder")
    started = time.monotonic()
    store = make(path, **asked)
    print(f"{path}: {len(store.run_ids)} runs, {size_of(path) / 1e9:.1f} GB, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
