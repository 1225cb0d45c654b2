"""docs/reliability.md: what was tried, and what came of it, in numbers."""

import os
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from faults.choice import ON_WORKERS
from faults.damage import STRANGE
from faults.interrupt import ERRORS, MODES
from faults.metadata import MEMORY, SECONDS
from faults.outcome import KINDS, Outcome

__all__ = ["write_report"]

PAGE = """\
# Reliability

What attlas promises under fault, and how often it was put to the test. `make soak` writes this page; a sample of the
same faults runs in `make test`. The code is in `tests/faults`.

{date}, attlas {attlas}: **{faults} faults in {minutes:.0f} minutes on {workers} processes; {runs} runs were read \
afterwards and compared value by value.** Python {python}, zarr {zarr}, xarray {xarray}, torch {torch}, {system}.

| tried | times |
|---|---|
{tried}

| came of it | times |
|---|---|
{consequences}

## What was tried

Recordings of two and three runs by tiny pipelines, in processes that are forked for one fault each. An audit hook sees
every operation on a file of the store or of its `.recording` before it happens: opening to write, renaming, linking,
removing, making and removing folders, locking, and each `fsync`. At the n-th one, for every n:

- **kill**: SIGKILL before it. A kill that would find the files as the kill before it is left out: after an `fsync` or a
  lock they are the same.
- **torn**: the process dies in the middle of writing the file that it opens, whose first bytes are there.
- **EIO, ENOSPC, EACCES**: the operation fails; the three take turns. Every second time the same process calls again at
  once, else another process does.
- **short**: writing or closing the file fails after its first bytes.
- **full**: from there on nothing can be added; **gone**: from there on everything fails.

After each, attlas opens the store, and so does xarray alone, without a warning; every run that is complete has every
value of an undisturbed recording; none that was complete before is missing. The call that failed raised an error of
attlas, or all that was asked for is there. The same call again succeeds, and then every file and every array are those
of an undisturbed recording, and no other file is there.

{recordings}

**Damage.** Every file of two stores (dense text, factors of a reference, a joint sequence, pictures, masks and
annotations of every dtype, vocabulary, statistics that a survey kept) was removed, cut in half, emptied, filled with
zeros, had single bits flipped, and was replaced by a fifo, a folder, a link to `/dev/zero` and a link to itself. Each
time `validate_store(deep=True)` must list a problem, and each array of each run, read for itself, must have its own
values or raise an error of attlas; so must a survey.

{damage}

**Metadata.** Root documents with one to three places changed at random (types, sizes, signs, names with `../`, NaN,
missing and additional keys, nodes in each other's places), and such as are no document at all. Checksums were made to
fit, so that what is behind them is reached. Opening and validating must raise an error of attlas or give the right
values, within {seconds:.0f} s of processor time and {memory:.0f} MB.

{metadata}

**Readers beside writers.** Four processes record run after run into one store; a reader opens it again and again, by
attlas and by xarray alone, and must find complete runs with their own values only. Four processes are given one list
of requests, and three Dask workers draw {on_workers} requests in two commands: each request is drawn once, and nothing
fails.

{beside}
"""


SUMS = {
    "processes killed": ("kill", "torn"),
    "errors injected": (*ERRORS, "short", "full", "gone"),
    "files removed": ("removed",),
    "files cut off, emptied or filled with zeros": ("halved", "emptied", "zeroed"),
    "bits flipped": ("flipped",),
    "files replaced by something else": STRANGE,
    "strange metadata": ("fuzzed",),
}
"""What the kinds of fault come to."""


def write_report(page: Path, outcomes: Sequence[Outcome], seconds: float, workers: int) -> None:
    """Write the page; it says how many processes worked how long."""
    names = {name: version(name) for name in ("attlas", "zarr", "xarray", "torch")}
    consequences = Counter(kind for outcome in outcomes for kind in {kind for kind, _ in outcome.problems})
    page.write_text(
        PAGE.format(
            **names,
            date=datetime.now(UTC).date().isoformat(),
            python=platform.python_version(),
            system=f"{platform.system()} {platform.release()}, {os.cpu_count()} cores",
            faults=len(outcomes),
            minutes=seconds / 60,
            workers=workers,
            runs=sum(outcome.runs for outcome in outcomes),
            tried="\n".join(f"| {what} | {_happened(outcomes, modes)} |" for what, modes in SUMS.items()),
            consequences="\n".join(f"| {kind}: {KINDS[kind]} | {consequences[kind]} |" for kind in KINDS),
            recordings=_table(_with(outcomes, _is_recording)),
            damage=_table(_with(outcomes, lambda outcome: outcome.scenario.startswith("files of"))),
            metadata=_table(_with(outcomes, lambda outcome: outcome.scenario.startswith("metadata of"))),
            beside=_table(_with(outcomes, lambda outcome: outcome.mode in ("openings", "calls"))),
            on_workers=ON_WORKERS,
            seconds=SECONDS,
            memory=MEMORY / 2**20,
        ),
        encoding="utf-8",
    )


def _happened(outcomes: Iterable[Outcome], modes: Sequence[str]) -> int:
    return sum(outcome.reached and outcome.mode in modes for outcome in outcomes)


def _is_recording(outcome: Outcome) -> bool:
    return outcome.mode in MODES


def _with(outcomes: Iterable[Outcome], wanted: Callable[[Outcome], bool]) -> list[Outcome]:
    return [outcome for outcome in outcomes if wanted(outcome)]


def _table(outcomes: Sequence[Outcome]) -> str:
    """A row for each scenario, a column for each kind of fault: how many happened."""
    found = dict.fromkeys(outcome.mode for outcome in outcomes)
    modes = [*(mode for mode in MODES if mode in found), *(mode for mode in found if mode not in MODES)]
    counts = Counter((outcome.scenario, outcome.mode) for outcome in outcomes if outcome.reached)
    bad = Counter(outcome.scenario for outcome in outcomes if outcome.problems)
    runs: Counter[str] = Counter()
    for outcome in outcomes:
        runs[outcome.scenario] += outcome.runs
    rows = [["", *modes, "runs compared", "not as promised"], ["---"] * (len(modes) + 3)]
    for scenario in dict.fromkeys(outcome.scenario for outcome in outcomes):
        cells = [str(counts[scenario, mode]) for mode in modes]
        rows.append([scenario, *cells, str(runs[scenario]), str(bad[scenario])])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) if outcomes else "Not tried."
