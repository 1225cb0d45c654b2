"""`sites`: what can be recorded in a pipeline, as a table for people."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from attlas.recorder.models.families import denoiser_of, family_of
from attlas.recorder.models.family import Family
from attlas.recorder.models.inventory import Site, all_sites, core
from attlas.recorder.models.rehearsal import Rehearsal, Rehearsed, rehearse
from attlas.recorder.plans.tables import aligned

__all__ = ["SiteList", "sites"]

UNKNOWN = "in a run"

HINTS = {
    "text": "cross-attention to the tokens of the prompt",
    "image": "attention to the reference image",
    "joint": "one softmax over text and picture (and references)",
    "self": "the picture looking at itself; large",
}


class SiteList(list[Site]):
    """Sites of a pipeline; printed as a table with a line for each group of modules that are alike.

    ``title`` says what the pipeline is, in lines.
    """

    def __init__(self, sites: Iterable[Site] = (), title: str = "") -> None:
        super().__init__(sites)
        self.title = title

    def __repr__(self) -> str:
        """Return the table of `table`, modules that are alike in one line."""
        return self.table()

    def table(self, *, every: bool = False) -> str:
        """Title, one aligned line for each group of modules that are alike, what cannot be recorded, and hints.

        The pattern of a group can be given to ``Capture(layers=...)``. With `every`, each module has a line of its own.
        """
        groups = [[site] for site in self] if every else _alike(self)
        shown = [group for group in groups if not group[0].reason]
        silent = [group for group in groups if group[0].reason]
        rows = [("kind", "modules", "heads", "grid", "keys", "layers")]
        rows += [
            (first.kind, str(len(group)), str(first.heads), _grid(first), _keys(first), _pattern(group))
            for group in shown
            for first in group[:1]
        ]
        blocks = [self.title] if self.title else []
        if shown:
            blocks.append(aligned(rows, right=(1, 2)))
        if silent:
            lines = [f"  {_pattern(group)} ({len(group)}): {group[0].reason}" for group in silent]
            blocks.append("\n".join(["cannot be recorded:", *lines]))
        if shown:
            blocks.append(self._hints())
        return "\n\n".join(blocks)

    def _hints(self) -> str:
        """Which capture records what."""
        found = [site for site in self if not site.reason]
        kinds = list(dict.fromkeys(site.kind for site in found))
        usual = [kind for kind in kinds if kind != "self"] or kinds
        rows = [("Capture()", " and ".join(usual))]
        rows += [(f'Capture(kinds="{kind}")', HINTS[kind]) for kind in sorted(kinds, key=list(HINTS).index)]
        if "joint" in kinds:
            rows.append(('Capture(kinds="joint", keys="prompt")', "of it only what looks at the prompt; far smaller"))
        stems = Counter(site.path.split(".")[0] for site in found if site.kind in usual)
        (stem, _), *others = stems.most_common()
        if others:
            rows.append((f'Capture(layers="{stem}.*")', f"only those in {stem}"))
        return "\n".join(["to record:", *("  " + line for line in aligned(rows).splitlines())])


def sites(pipe: Any) -> SiteList:
    """Every attention module of `pipe`, in the order in which they compute: what can be recorded, and what not and why.

    Grids and keys are those of the pipeline's default picture size, without reference images, found by running an empty
    copy of the denoiser's shapes; nothing is drawn and the pipeline is not touched. Where that is not possible, or the
    number depends on the prompt, they are None.

    Returns
    -------
    List of `Site`; its repr is a table in which modules that are alike share a line.

    Raises
    ------
    CaptureError
        If the pipeline is of no known family or has no attention module.

    Examples
    --------
    >>> from attlas.recorder import load_pipeline, sites
    >>> found = sites(load_pipeline("demo:shapes"))
    >>> {site.kind for site in found} == {"text", "self"}, found[0].grid
    (True, (16, 16))
    """
    family = family_of(pipe)
    denoiser = core(denoiser_of(pipe, family))
    found = all_sites(denoiser, family)
    rehearsal = rehearse(pipe, family, denoiser, found)
    shapes = {} if rehearsal is None else rehearsal.sites
    order = {place: number for number, place in enumerate(shapes)}
    # A module that shows nothing stands where its neighbours do, or at the end.
    by_path = {path: number for (path, _), number in order.items()}
    found.sort(key=lambda site: by_path.get(site.path, len(order)))
    # An IP-Adapter asks with the queries of its module, of which the empty copy shows the first call only.
    grids = {path: shape.grid for (path, _), shape in shapes.items()}
    found = [replace(site, grid=grids.get(site.path)) for site in found]
    listed = [_filled(site, shapes.get((site.path, site.order))) for site in found]
    return SiteList(listed, _title(pipe, denoiser, family, rehearsal))


def _filled(site: Site, shape: Rehearsed | None) -> Site:
    if shape is None:
        return site
    if not shape.keys_known:
        return replace(site, grid=shape.grid)
    segments: list[tuple[str, int | None]] = [
        (part.segment, part.tokens if shape.text_known or part.segment != "text" else None) for part in shape.parts
    ]
    numbers = [number for _, number in segments]
    total = None if None in numbers else sum(number for number in numbers if number is not None)
    return replace(site, grid=shape.grid, keys=total, segments=tuple(segments))


def _title(pipe: Any, denoiser: Any, family: Family, rehearsal: Rehearsal | None) -> str:
    size = UNKNOWN
    if rehearsal is not None:
        height, width = rehearsal.image_shape
        frames = f", {rehearsal.frames} frames" if rehearsal.frames else ""
        size = f"{width}x{height} (width x height){frames}"
    orders = sorted(family.branches, key=len, reverse=True)
    if family.passes is not None:
        branches = "cond, uncond, one after the other; cond alone without guidance"
    else:
        branches = ", ".join(orders[0]) + ("; cond alone without guidance" if len(orders) > 1 else "")
    rows = [
        ("pipeline", f"{type(pipe).__name__} ({family.name})"),
        ("denoiser", f"{family.denoiser}: {type(denoiser).__name__}"),
        ("picture", f"{size}, if the request says nothing else" if rehearsal is not None else size),
        ("guidance branches", branches),
    ]
    return aligned(rows)


def _alike(sites: Iterable[Site]) -> list[list[Site]]:
    """Group sites that differ in the numbers of their paths only, in order of the first of each."""
    groups: dict[tuple[Any, ...], list[Site]] = {}
    for site in sites:
        stem = re.sub(r"(?<=\.)\d+(?=\.|$)", "*", site.path)
        place = (stem, site.kind, site.heads, site.grid, site.segments, site.order, site.reason)
        groups.setdefault(place, []).append(site)
    return list(groups.values())


def _pattern(group: list[Site]) -> str:
    """Shell pattern of the paths of a group: numbers that differ are stars."""
    columns = zip(*(site.path.split(".") for site in group), strict=True)
    return ".".join(names[0] if len(set(names)) == 1 else "*" for names in columns)


def _grid(site: Site) -> str:
    return UNKNOWN if site.grid is None else "x".join(str(size) for size in site.grid)


def _keys(site: Site) -> str:
    if not site.segments:
        return UNKNOWN
    if len(site.segments) == 1:
        (number,) = (number for _, number in site.segments)
        return "by prompt" if number is None else str(number)
    return " + ".join(segment if number is None else f"{number} {segment}" for segment, number in site.segments)
