"""docs/architectures.md, made from the rows: `python tests/recorder/matrix/table.py` writes it anew."""

import re
import sys
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "architectures.md"

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from matrix.rows import Row, rows  # noqa: E402 - found only now, where this file is run

INTRO = """\
# Architectures

What can be recorded, and what cannot. `attlas sites MODEL` tells it of a pipeline of your own.

Every row is a test: a tiny pipeline with the real classes and random weights is recorded, and

- its picture is the same to the last bit as without the recorder, and nothing is left behind in the pipeline;
- the stored attention is the softmax of the Q and K that the attention kernel got, in both directions, for every call,
  branch, layer and head; its rows sum to 1; times V it gives what the kernel gave; the means are the means of it;
- branches, steps, grids, and the places of words among the keys are those of the row.

Grids and keys are those of the tiny pipeline at the size that the test asks for; real ones are larger and alike. `text`
is cross-attention to a prompt, `image` to a picture, `self` the picture's attention to itself, and `joint` one softmax
over text and picture together. Branches are in the order of their rows in a batch; where each is a pass of its own, in
the order of the passes.
"""


def page(every: list[Row]) -> str:
    """The whole page."""
    recorded, refused = [row for row in every if not row.reason], [row for row in every if row.reason]
    head = ("architecture", "pipeline", "kinds", "branches", "query grids", "keys", "notes")
    lines = [(r.name, f"`{r.pipeline}`", ", ".join(r.kinds), branches(r), grids(r), keys(r), r.notes) for r in recorded]
    parts = [INTRO, "## Recorded\n", markdown(head, lines)]
    if refused:
        reasons = [(row.name, f"`{row.pipeline}`", row.reason) for row in refused]
        parts += ["## Not recorded\n", "Each of these is an error that says why.\n"]
        parts += [markdown(("architecture", "pipeline", "why"), reasons)]
    return "\n".join(parts)


def markdown(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    table = [head, ("---",) * len(head), *lines]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in table)


def branches(row: Row) -> str:
    """Branches that the recording holds."""
    wanted = row.capture.get("branches", "all")
    kept = [name for name in row.branches if wanted == "all" or name in wanted]
    return ", ".join(kept) + (" (passes)" if row.passes and len(kept) > 1 else "")


def grids(row: Row) -> str:
    """Grids of the queries, each once; a leaf's name is its kind, its grid and, where that is not enough, more."""
    return ", ".join(dict.fromkeys(re.search(r"/([\dx]+)", name)[1] for name in row.leaves))


def keys(row: Row) -> str:
    """Keys of each kind; those of a picture that looks at itself are its own grid."""
    told = []
    for kind in row.kinds:
        found = list(dict.fromkeys(spelled for name, spelled in row.leaves.items() if name.split("/")[0] == kind))
        if all(re.fullmatch(r"\d+ self", spelled) for spelled in found):
            continue
        told.append(f"{kind}: {' or '.join(found)}" if len(row.kinds) > 1 else " or ".join(found))
    return "; ".join(told) or "the grid"


if __name__ == "__main__":
    PAGE.write_text(page(rows()))
