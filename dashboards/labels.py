"""Short labels for long names: what a tile, a button or a selector shows."""

import re
from collections.abc import Sequence

__all__ = ["call_label", "layer_labels", "layer_order", "run_labels"]


def layer_labels(paths: Sequence[str]) -> list[str]:
    """Shorten module paths by what all of them share; give the paths back where that would not tell them apart.

    Examples
    --------
    >>> layer_labels(["down_blocks.0.attentions.1.attn2", "mid_block.attentions.0.attn2"])
    ['down.0.1', 'mid.0']
    >>> layer_labels(["blocks.0.attn2", "blocks.1.attn2"]), layer_labels(["attn2"])
    (['layer 0', 'layer 1'], ['attn2'])
    """
    parts = [path.split(".") for path in paths]
    while min(map(len, parts), default=0) > 1 and len({tuple(p[-1:]) for p in parts}) == 1:
        parts = [p[:-1] for p in parts]
    shared = set.intersection(*map(set, parts)) if len(parts) > 1 else set()
    kept = [[word for word in p if word not in shared or word.isdigit()] for p in parts]
    short = [".".join(word.removesuffix("_blocks").removesuffix("_block") for word in p) for p in kept]
    if all(short) and len(set(short)) == len(set(paths)):
        return [f"layer {name}" if name.isdigit() else name for name in short]
    return list(paths)


def layer_order(paths: Sequence[str]) -> list[int]:
    """Order module paths as a U-Net runs, down, middle, up, and by number within each.

    Examples
    --------
    >>> layer_order(["up_blocks.1.attn2", "mid_block.attn2", "down_blocks.10.attn2", "down_blocks.9.attn2"])
    [3, 2, 1, 0]
    """
    stages = ("down", "mid", "up")

    def key(path: str) -> tuple[int, tuple[tuple[int, str], ...]]:
        stage = next((place for place, name in enumerate(stages) if path.startswith(name)), 0)
        parts = re.split(r"(\d+)", path)
        return stage, tuple((int(part), "") if part.isdigit() else (-1, part) for part in parts)

    return sorted(range(len(paths)), key=lambda place: key(paths[place]))


def run_labels(runs: Sequence[str]) -> list[str]:
    """Shorten labels of runs by a beginning that all share, up to a separator.

    Examples
    --------
    >>> run_labels(["shapes-0000", "shapes-0011"]), run_labels(["0000", "0001"])
    (['0000', '0011'], ['0000', '0001'])
    """
    cut = 0
    for match in re.finditer(r"[^0-9A-Za-z]", runs[0] if len(runs) > 1 else ""):
        if not all(run.startswith(runs[0][: match.end()]) for run in runs):
            break
        cut = match.end()
    return [run[cut:] or run for run in runs]


def call_label(first: int, last: int) -> str:
    """Name denoiser calls `first` to `last`.

    Examples
    --------
    >>> call_label(0, 3), call_label(2, 2)
    ('t 0-3', 't 2')
    """
    return f"t {first}" if first == last else f"t {first}-{last}"
