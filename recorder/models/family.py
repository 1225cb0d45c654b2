"""One family of pipelines: where the denoiser is, how guidance orders its rows or passes, what its keys are."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from attlas.schemas.errors import CaptureError, InvalidValueError, unknown_name

__all__ = ["Family", "effective"]


@dataclass(frozen=True)
class Family:
    """Facts about pipelines that share one denoising loop.

    Parameters
    ----------
    name
        Label used in messages.
    pipelines
        Class names; subclasses count too.
    cross
        What the keys of cross-attention are: ``text`` or ``image``.
    branches
        The row orders that occur, one tuple for each number of rows in a picture's batch.
    batch
        Request arguments whose length is the number of pictures, the first given one counts.
    reference
        Request argument that holds the reference image, or None.
    picture
        Request argument whose size the generated picture has, where height and width are not arguments.
    denoiser
        Attribute of the pipeline that holds the denoiser.
    relay
        Attribute of the pipeline that may hold a second denoiser, with modules like the first one's, which takes over
        in some of the calls: then layers are those of whichever computed a call.
    passes
        For pipelines that call the denoiser once for each guidance branch: gives the branches of a run in the order of
        their passes, from the pipeline and the request's arguments. None where branches are rows of one call.
    kinds
        Pairs of a shell pattern of module paths and what the keys of these modules are (``text``, ``image``, ``self``;
        joined by ``+`` where a module makes several kernel calls), for denoisers of your own; the first pattern that
        fits counts. Of the others, modules of diffusers say themselves whether they are cross-attention; of modules
        that are not, those named ``attn1`` or ``self_attn`` look at their own hidden states, and those named ``attn2``
        or ``cross_attn``, or whose ``to_k`` is of another width than ``to_q``, at what `cross` says.
    key_grid
        Rows and columns of the keys of an ``image`` module, from its path, its number of keys and its query grid; None
        where it does not know. One key more than these is a class token, which comes first. By default the patches of
        the pipeline's image encoder.
    keys_vary
        Whether the keys of ``image`` modules change from call to call, as features of a second network do.
    ragged
        Whether the number of text tokens differs from prompt to prompt.

    Examples
    --------
    >>> Family("mine", ("MyPipeline",), "text", (("cond",), ("cond", "uncond"))).labels(2)
    ('cond', 'uncond')
    """

    name: str
    pipelines: tuple[str, ...]
    cross: str
    branches: tuple[tuple[str, ...], ...] = (("cond",), ("uncond", "cond"))
    batch: tuple[str, ...] = ("prompt", "prompt_embeds")
    reference: str | None = None
    picture: str | None = None
    denoiser: str = "unet"
    relay: str | None = None
    passes: Callable[[Any, Mapping[str, Any]], tuple[str, ...]] | None = None
    kinds: tuple[tuple[str, str], ...] = ()
    key_grid: Callable[[str, int, tuple[int, ...]], tuple[int, int] | None] | None = None
    keys_vary: bool = False
    ragged: bool = False

    def __post_init__(self) -> None:
        if self.cross not in ("text", "image"):
            raise unknown_name("kind of cross-attention", self.cross, ("text", "image"))
        for pattern, kind in self.kinds:
            parts = kind.split("+")
            if len(set(parts)) < len(parts):
                raise InvalidValueError(
                    f"family {self.name!r} says {kind!r} of {pattern!r}: two calls of one kind cannot be told apart"
                )
            for part in parts:
                if part not in ("text", "image", "self"):
                    known = ("text", "image", "self")
                    raise unknown_name("kind of attention", part, known, where=f"family {self.name!r}")

    def kind_of(self, path: str) -> str | None:
        """Name what the keys of the module at `path` are, as in `kinds`, where the family says it."""
        return next((kind for pattern, kind in self.kinds if fnmatchcase(path, pattern)), None)

    def labels(self, rows: int) -> tuple[str, ...]:
        """Branch names of a batch with `rows` rows a picture."""
        for order in self.branches:
            if len(order) == rows:
                return order
        known = ", ".join(f"{len(order)} {list(order)}" for order in self.branches)
        raise CaptureError(
            f"the denoiser got {rows} rows for one picture; pipelines of family {self.name!r} have {known}: "
            "the order of its guidance branches is not known; register_family(Family(...)) can name it"
        )

    @property
    def branch_names(self) -> tuple[str, ...]:
        """All branch names that can occur."""
        if self.passes is not None:
            return ("cond", "uncond")
        return tuple(dict.fromkeys(name for order in self.branches for name in order))


def effective(pipe: Any, arguments: Mapping[str, Any], name: str) -> float:
    """Value of a number among the request's arguments: as given, or the pipeline's own default."""
    value = arguments.get(name)
    if value is None:
        value = inspect.signature(type(pipe).__call__).parameters[name].default
    return float(value)
