"""The report of an experiment: one HTML file that needs nothing else."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attlas.analysis import Trace
from attlas.analysis.scores import ScoreTable
from attlas.analysis.words import text_kind
from attlas.dashboards.page import Figure, Section, Table, write_report
from attlas.dashboards.sections import reference_kind, reference_section, score_sections, word_section
from attlas.schemas.errors import InvalidValueError

__all__ = ["Figure", "Section", "Table", "read_scores", "report", "write_report"]

RUNS = 3
"""Runs of each store that are shown."""

Tables = Sequence[ScoreTable | Mapping[str, Any]]


def report(
    traces: Mapping[str, Trace],
    scores: Mapping[str, Tables],
    path: str | Path,
    *,
    runs: int = RUNS,
    title: str = "attlas report",
) -> Path:
    """Write what stores show, and their scores, into one self-contained HTML file.

    Parameters
    ----------
    traces
        Stores by the name under which they appear. One with text attention shows word maps, one with attention to a
        reference picture shows reference maps.
    scores
        Score tables by store name, as `ScoreTable` or its ``to_json``. Names that agree up to the first hyphen stand
        side by side: ``shapes`` and ``shapes-random``.
    path
        File to write; its folder must exist.
    runs
        How many runs of each store are shown, the first ones.
    title
        Heading of the page.

    Returns
    -------
    The path.

    Raises
    ------
    InvalidValueError
        If there is neither a trace nor a score, or a trace has no complete run, or the folder does not exist.
    """
    plain = {name: [_plain(table) for table in tables] for name, tables in scores.items()}
    scored = score_sections(plain)
    sections: list[Section] = []
    for name, trace in traces.items():
        if not trace.run_ids:
            raise InvalidValueError(f"store {name!r} has no complete run to report")
        if text_kind(trace) in trace.kinds:
            sections.append(word_section(name, trace, runs))
        if reference_kind(trace) is not None and trace.reference_shape is not None:
            sections.append(reference_section(name, trace, runs))
        if name in scored:
            sections.append(scored.pop(name))
    sections += scored.values()
    lead = "; ".join(f"{name}: {trace.manifest.model}, {len(trace.run_ids)} runs" for name, trace in traces.items())
    return write_report(path, *sections, title=title, lead=lead)


def read_scores(path: str | Path) -> dict[str, list[Mapping[str, Any]]]:
    """Read score tables by store name from a JSON file, ``{store: [table, ...]}`` with tables as `ScoreTable.to_json`.

    A store that is named by its path appears under the folder's name without ``.zarr``.

    Raises
    ------
    InvalidValueError
        If the file is not there, no JSON, or of another form.
    """
    try:
        given = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as err:
        raise InvalidValueError(f"scores in {path} cannot be read: {err}") from err
    if not isinstance(given, dict) or not all(_is_tables(tables) for tables in given.values()):
        raise InvalidValueError(f"scores in {path} are of another form; {{store: [table, ...]}} is accepted")
    return {Path(name).name.removesuffix(".zarr"): tables for name, tables in given.items()}


def _is_tables(tables: object) -> bool:
    return isinstance(tables, list) and all(isinstance(t, dict) and isinstance(t.get("scores"), dict) for t in tables)


def _plain(table: ScoreTable | Mapping[str, Any]) -> Mapping[str, Any]:
    return table.to_json() if isinstance(table, ScoreTable) else table
