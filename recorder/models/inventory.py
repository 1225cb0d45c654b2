"""What can be recorded in a pipeline: its attention modules, and what of them is wanted."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_processor import Attention
from torch import nn

from attlas.recorder.capture import Capture
from attlas.recorder.models.adapters import adapters_of
from attlas.recorder.models.anatomy import Anatomy, anatomy_of
from attlas.recorder.models.families import denoiser_of, family_of
from attlas.recorder.models.family import Family
from attlas.recorder.observe import is_compiled
from attlas.recorder.projections import looks_at_itself, projects
from attlas.schemas.errors import CaptureError, unknown_name

__all__ = ["Site", "Subject", "all_sites", "attention_modules", "compiles", "core", "select"]


_OFF = "the scale of its IP-Adapter is 0, so that it computes nothing; pipe.set_ip_adapter_scale(...) changes that"


@dataclass(frozen=True)
class Site:
    """One attention module, and one kind of keys that it looks at.

    ``path`` is the module's path inside the denoiser, as a store labels it. ``grid`` (frames first for a video) and
    ``keys`` are those of the pipeline's default picture size, None where they show only in a run. ``order`` says which
    of the module's kernel calls it is: an IP-Adapter module makes one for the text and then one for each image.
    ``label`` is the layer's name in a store: the path, or that of the projection where a module looks at several
    images. ``varies`` says that its keys change from call to call although they are not the picture's own. ``reason``
    says why it cannot be recorded; empty where it can. ``segments`` are the stretches of the keys, each with what they
    are and their number, None where it shows only in a run.
    """

    path: str
    kind: str
    heads: int
    grid: tuple[int, ...] | None = None
    keys: int | None = None
    order: int = 0
    label: str = ""
    varies: bool = False
    reason: str = ""
    segments: tuple[tuple[str, int | None], ...] = ()

    def __post_init__(self) -> None:
        if not self.label:
            object.__setattr__(self, "label", self.path)


@dataclass(frozen=True)
class Subject:
    """A pipeline and what is wanted of it.

    ``orders`` counts the known kernel calls in one pass of each module; ``compiled`` says whether torch.compile is at
    work; ``relay`` is a second denoiser that takes over in some of the calls, where there is one.
    """

    pipe: Any
    family: Family
    anatomy: Anatomy
    denoiser: nn.Module
    capture: Capture
    sites: tuple[Site, ...]
    orders: Mapping[str, int]
    compiled: bool
    relay: nn.Module | None = None

    @property
    def denoisers(self) -> tuple[nn.Module, ...]:
        """Every module that is observed."""
        return (self.denoiser,) if self.relay is None else (self.denoiser, self.relay)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds that are recorded."""
        return tuple(dict.fromkeys(site.kind for site in self.sites))


def core(denoiser: nn.Module) -> nn.Module:
    """Return the module itself where `denoiser` is its compiled wrapper."""
    inner = getattr(denoiser, "_orig_mod", denoiser)
    return inner if isinstance(inner, nn.Module) else denoiser


def attention_modules(denoiser: nn.Module) -> dict[str, nn.Module]:
    """Attention modules below `denoiser` by path: those of diffusers, and those that compute theirs by hand."""
    return {
        path: module
        for path, module in denoiser.named_modules()
        if isinstance(module, Attention | AttentionModuleMixin) or projects(module)
    }


def select(pipe: Any, capture: Capture) -> Subject:
    """Find what `capture` asks for in `pipe`, or say what of it the pipeline does not have."""
    family = family_of(pipe)
    denoiser = core(denoiser_of(pipe, family))
    anatomy = anatomy_of(denoiser)
    every = all_sites(denoiser, family)
    found = [site for site in every if not site.reason]
    _check_recordable(pipe, every, capture)
    present = tuple(dict.fromkeys(site.kind for site in found))
    kinds = capture.kinds
    if kinds is None:
        kinds = tuple(kind for kind in present if kind != "self") or present
    if not set(kinds) & set(present):
        _check_recordable_kinds(pipe, every, kinds)
        where = f"{type(pipe).__name__}: it has no attention of that kind"
        raise unknown_name("kind", ", ".join(kinds), present, where=where)
    chosen = [site for site in found if site.kind in kinds]
    for pattern in capture.layers or ():
        if not any(fnmatchcase(site.path, pattern) for site in chosen):
            raise unknown_name("layer pattern", pattern, dict.fromkeys(site.path for site in chosen))
    if capture.layers is not None:
        chosen = [site for site in chosen if any(fnmatchcase(site.path, pattern) for pattern in capture.layers)]
    _check_heads(chosen, capture.heads)
    if capture.branches != "all":
        for branch in capture.branches:
            if branch not in family.branch_names:
                raise unknown_name("branch", branch, family.branch_names, where=type(pipe).__name__)
    orders = Counter(site.path for site in found)
    relay = _relay(pipe, family, denoiser)
    if relay is not None:
        # The two make keys of the same text with weights of their own.
        chosen = [replace(site, varies=True) for site in chosen]
    compiled = compiles(pipe, family)
    return Subject(pipe, family, anatomy, denoiser, capture, tuple(chosen), orders, compiled, relay)


def compiles(pipe: Any, family: Family) -> bool:
    """Whether torch.compile is at work in a denoiser of `pipe`."""
    other = None if family.relay is None else getattr(pipe, family.relay, None)
    return is_compiled(denoiser_of(pipe, family)) or (isinstance(other, nn.Module) and is_compiled(other))


def _relay(pipe: Any, family: Family, denoiser: nn.Module) -> nn.Module | None:
    """Second denoiser of `pipe`, with the same attention as the first; None where there is none."""
    other = None if family.relay is None else getattr(pipe, family.relay, None)
    if other is None:
        return None
    other = core(other)
    first, second = (
        {path: getattr(module, "heads", 0) for path, module in attention_modules(model).items()}
        for model in (denoiser, other)
    )
    if first != second:
        raise CaptureError(
            f"{type(pipe).__name__}.{family.relay} has other attention modules than its {family.denoiser}, and takes "
            "over in some of the calls; one store holds layers that compute in every call"
        )
    return other


def all_sites(denoiser: nn.Module, family: Family) -> list[Site]:
    """Every site of `denoiser`, those that cannot be recorded too, without grids and keys."""
    anatomy = anatomy_of(denoiser)
    found = []
    for path, module in attention_modules(denoiser).items():
        heads = int(getattr(module, "heads", 0))
        reason = anatomy.reason(path) or _unclear(path, module, family)
        for order, (kind, label) in enumerate(_calls(path, module, family, anatomy)):
            varies = family.keys_vary and kind == "image"
            found.append(Site(path, kind, heads, order=order, label=label, varies=varies, reason=reason))
        found += [Site(path, "image", heads, label=label, reason=reason or _OFF) for label in _idle(path, module)]
    if not found:
        raise CaptureError(f"{type(denoiser).__name__} has no attention module that attlas knows")
    return found


def _calls(path: str, module: nn.Module, family: Family, anatomy: Anatomy) -> list[tuple[str, str]]:
    """Kind and label of each kernel call that a module makes in one pass, in order."""
    said, known = family.kind_of(path), anatomy.kinds_of(path)
    cross = bool(getattr(module, "is_cross_attention", False))
    own = looks_at_itself(path, module) if projects(module) else None
    if said is not None:
        kinds = said.split("+")
    elif known is not None:
        kinds = list(known)
    elif cross and getattr(module, "add_k_proj", None) is not None:
        # The picture that a video starts from comes before the text.
        kinds = ["image", "text"]
    else:
        kinds = [family.cross if cross or own is False else "self"]
    calls = [(kind, path) for kind in kinds]
    return calls + [("image", adapter.label) for adapter in adapters_of(path, module) if adapter.computes]


def _idle(path: str, module: nn.Module) -> list[str]:
    """Labels of the IP-Adapters of a module that make no kernel call."""
    return [adapter.label for adapter in adapters_of(path, module) if not adapter.computes]


def _unclear(path: str, module: nn.Module, family: Family) -> str:
    """Why the kind of a module that is not of diffusers is not known; empty where it is."""
    if not projects(module) or family.kind_of(path) is not None or looks_at_itself(path, module) is not None:
        return ""
    return (
        "its name does not tell whether it looks at its own hidden states (attn1) or at a context (attn2); "
        f'register_family(Family({family.name!r}, ..., kinds=(("{path}", "self"),))) can'
    )


def _check_recordable(pipe: Any, every: list[Site], capture: Capture) -> None:
    """Say why a layer that is asked for by name cannot be recorded."""
    silent = [site for site in every if site.reason]
    for pattern in capture.layers or ():
        fitting = [site for site in every if fnmatchcase(site.path, pattern)]
        if fitting and all(site.reason for site in fitting):
            raise CaptureError(
                f"layers {pattern!r} of {type(pipe).__name__} cannot be recorded: {fitting[0].path}: "
                f"{fitting[0].reason}; others can: choose from sites(pipe)"
            )
    if len(silent) == len(every):
        raise CaptureError(f"{type(pipe).__name__} cannot be recorded: {silent[0].path}: {silent[0].reason}")


def _check_recordable_kinds(pipe: Any, every: list[Site], kinds: Iterable[str]) -> None:
    """Say why none of a kind can be recorded, where the pipeline has some."""
    for site in every:
        if site.reason and site.kind in kinds:
            raise CaptureError(
                f"{site.kind!r} attention of {type(pipe).__name__} cannot be recorded: {site.label}: {site.reason}"
            )


def _check_heads(chosen: list[Site], heads: Iterable[int] | None) -> None:
    for site in chosen:
        for head in heads or ():
            if head >= site.heads:
                raise CaptureError(
                    f"head {head} is asked for, but {site.path} has {site.heads} heads, 0 to {site.heads - 1}; "
                    "choose other heads, or layers that have it"
                )
