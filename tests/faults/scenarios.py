"""Recordings that are disturbed: each a call that can be made again, and what it builds on."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from faults import pipelines
from faults.children import Note, start
from faults.cluster import forked_cluster

from attlas.recorder import Capture, record

__all__ = ["SCENARIOS", "STORE", "Scenario"]

STORE = "s.zarr"
"""Name of the store in a folder that holds nothing else."""

SIZE = 16
"""Height and width of the pictures of `pipelines.small`."""


@dataclass(frozen=True)
class Scenario:
    """A recording.

    Parameters
    ----------
    name
        As reports call it.
    call
        Makes or continues the recording in the store at a path; the same call resumes it.
    pipe
        The pipeline that it runs, which must be as it was found when the call is over.
    before
        Makes what the store holds before; None where there is no store.
    survives
        Whether the call goes on where the disturbed process dies.
    """

    name: str
    call: Callable[..., Any]
    pipe: Callable[[], Any]
    before: Callable[[Path], Any] | None = None
    survives: ClassVar[bool] = False

    def disturbed(self, path: Path, watch: Callable[[], None]) -> None:
        """Make the recording, with `watch` called in the process whose operations count."""
        watch()
        self.call(path)


@dataclass(frozen=True)
class OnCluster(Scenario):
    """A recording by two Dask workers, of which the first is disturbed; it is resumed without them.

    The second comes when the first has begun, so that the first always makes the store.
    """

    survives: ClassVar[bool] = True

    def disturbed(self, path: Path, watch: Callable[[], None]) -> None:
        before = _entries(path.parent)

        def begun() -> None:
            # Nor longer than a while, if the first dies before it does anything.
            late = time.monotonic() + A_WHILE
            while _entries(path.parent) == before and time.monotonic() < late:
                time.sleep(GLANCE)

        with forked_cluster(watch, begun) as client:
            self.call(path, client=client)


GLANCE, A_WHILE = 0.002, 3.0
"""Seconds between looks whether something is there, and for all of them."""


def _entries(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.exists() else set()


@dataclass(frozen=True)
class ByClient(Scenario):
    """A recording by two Dask workers, whose client is disturbed."""

    def disturbed(self, path: Path, watch: Callable[[], None]) -> None:
        with forked_cluster(lambda: None, lambda: None) as client:
            watch()
            self.call(path, client=client)


@dataclass(frozen=True)
class BesideAnother(Scenario):
    """The same call by two processes at once, of which one is disturbed: the other makes what that one does not."""

    survives: ClassVar[bool] = True

    def disturbed(self, path: Path, watch: Callable[[], None]) -> None:
        def other(_: Note) -> None:
            watch()
            self.call(path)

        beside = start(other)
        self.call(path)
        ended = beside.wait()
        if not ended.signal and not ended.returned and not ended.ours:
            raise RuntimeError(f"the process beside {ended}\n{ended.trace}")


@dataclass(frozen=True)
class Recording:
    """A call of `record`."""

    pipe: Callable[[], Any]
    requests: Sequence[Mapping[str, Any]]
    capture: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, path: Path, client: Any = None) -> Any:
        # Workers make pipelines of their own.
        pipe = self.pipe() if client is None else self.pipe
        return record(pipe, path, self.requests, Capture(**self.capture), progress=False, client=client)


@dataclass(frozen=True)
class Command:
    """A call of ``attlas record`` on the pipeline in a folder; what it prints is thrown away."""

    arguments: Sequence[str]

    def __call__(self, path: Path) -> Any:
        from attlas.schemas.cli.group import attlas

        arguments = ["record", str(pipelines.saved()), str(path), "--quiet", *self.arguments]
        attlas.main(arguments, prog_name="attlas", standalone_mode=False)


def requests(*seeds: int, **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": "a red cat", "seed": seed, "num_inference_steps": 2, **more} for seed in seeds]


def annotated(seed: int, **more: Any) -> dict[str, Any]:
    """A request with an annotation of every dtype: mask, picture, numbers, text."""
    rng = np.random.default_rng(seed)
    given = {
        "cat": rng.random((SIZE, SIZE)) < 0.5,
        "seen_as": rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8),
        "boxes": rng.integers(0, SIZE, (2, 4)),
        "score": float(rng.random()),
        "caption": f"cat number {seed}",
    }
    return {**requests(seed)[0], "annotations": {**given, **more}}


TEXT = {"kinds": ("text",)}
BATCH = {"prompt": ["a red cat", "a blue dog"], "seed": [1, 2], "num_inference_steps": 2}
FLUX = {"height": 20, "width": 36, "max_sequence_length": 16}

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("new store", Recording(pipelines.small, requests(0, 1), TEXT), pipelines.small),
        Scenario(
            "growing store",
            Recording(pipelines.small, requests(0, 1, 2), TEXT),
            pipelines.small,
            before=Recording(pipelines.small, requests(0), TEXT),
        ),
        Scenario("batch", Recording(pipelines.small, [BATCH], TEXT), pipelines.small),
        Scenario(
            "annotations and vocabulary",
            # The second run brings a name that the store does not know.
            Recording(
                pipelines.small,
                [annotated(0), annotated(1, dog=np.zeros((SIZE, SIZE), bool))],
                {**TEXT, "vocabulary": ("dog",)},
            ),
            pipelines.small,
        ),
        Scenario("joint", Recording(pipelines.joint, requests(0, 1, **FLUX), {"kinds": ("joint",)}), pipelines.joint),
        Scenario(
            "summary",
            Recording(pipelines.small, requests(0, 1), {"kinds": ("text", "self"), "detail": "summary"}),
            pipelines.small,
        ),
        Scenario(
            "attlas record",
            Command(["--prompt", "a red cat", "--seed", "0", "--seed", "1", "--steps", "2", "--kinds", "text"]),
            pipelines.small,
        ),
        BesideAnother("two processes", Recording(pipelines.small, requests(0, 1, 2), TEXT), pipelines.small),
        OnCluster("Dask worker", Recording(pipelines.small, requests(0, 1, 2), TEXT), pipelines.small),
        ByClient("Dask client", Recording(pipelines.small, requests(0, 1), TEXT), pipelines.small),
    )
}
