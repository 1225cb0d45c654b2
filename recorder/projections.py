"""Sees the Q and K of attention that a module computes by hand, with einsum and softmax, where no kernel is called.

What the layers `to_q` and `to_k` give is copied as they give it; when the module ends, it is what a kernel would have
got. That its softmax really is that of these two is proved on a few queries of every pass: the softmax times what
`to_v` gives must be what `to_out` gets.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from attlas.schemas.errors import ObservationError

__all__ = ["Gathered", "Projected", "looks_at_itself", "projects"]

MASKS = ("mask", "attention_mask", "attn_mask", "encoder_attention_mask", "key_padding_mask")
"""Arguments of a module that can change its softmax."""

NAMES = {"attn1": True, "self_attn": True, "attn2": False, "cross_attn": False}
"""Last names of modules, and whether these look at their own hidden states: as LDM and its descendants call them."""

ROWS = 8
"""Queries of a pass on which its softmax is proved."""

KERNEL = (
    "let it call torch.nn.functional.scaled_dot_product_attention, whose calls are recorded as they are, or leave it "
    "out of Capture(layers=...)"
)


def projects(module: nn.Module) -> bool:
    """Whether `module` is an attention module outside diffusers: layers `to_q`, `to_k`, `to_v`, a number of `heads`."""
    if isinstance(module, Attention | AttentionModuleMixin) or type(module).__module__.startswith("diffusers."):
        return False
    heads = getattr(module, "heads", None)
    layers = all(_is_linear(getattr(module, name, None)) for name in ("to_q", "to_k", "to_v"))
    return layers and isinstance(heads, int) and not isinstance(heads, bool) and heads > 0


def _is_linear(layer: object) -> bool:
    """Whether it is a linear layer, or one that an adapter has wrapped."""
    return isinstance(layer, nn.Linear) or isinstance(getattr(layer, "base_layer", None), nn.Linear)


def looks_at_itself(path: str, module: nn.Module) -> bool | None:
    """Whether a module that `projects` makes K of its own hidden states; None where that cannot be told.

    A `to_k` of another width than `to_q` cannot. Where they are as wide, names tell: ``attn1`` and ``self_attn`` do,
    ``attn2`` and ``cross_attn`` do not.

    Examples
    --------
    >>> module = nn.Module()
    >>> module.to_q, module.to_k = nn.Linear(8, 8), nn.Linear(8, 8)
    >>> looks_at_itself("mid.attn1", module), looks_at_itself("mid.attention", module)
    (True, None)
    """
    widths = {_width(getattr(module, name)) for name in ("to_q", "to_k")}
    return False if len(widths) > 1 else NAMES.get(path.rpartition(".")[2])


def _width(layer: nn.Module) -> int:
    return int(getattr(layer, "base_layer", layer).in_features)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Projected:
    """Q and K of one pass of a module, as (row, head, token, channel).

    ``own`` says whether both were made of the same hidden states, where that was seen. ``excess`` is by how much the
    module's output is farther from that of their softmax than rounding explains: above 0 it is not theirs. None where
    nothing computes.
    """

    query: Tensor
    key: Tensor
    scale: float
    own: bool | None
    excess: Tensor | None


@dataclass
class Gathered:
    """What the layers of one module showed in one pass; ``turn`` counts the passes of the denoiser before."""

    path: str
    module: nn.Module
    turn: int = 0
    mask: str | None = None
    given: dict[str, list[Tensor]] = field(default_factory=dict)
    made: dict[str, list[Tensor]] = field(default_factory=dict)
    result: list[Tensor] = field(default_factory=list)

    @staticmethod
    def watch(
        module: nn.Module,
        gathered: Callable[[], "Gathered | None"],
        untraced: Callable[[Callable[..., None]], Callable[..., None]],
    ) -> list[RemovableHandle]:
        """Watch the layers of `module`; `gathered` gives where to put what they show, or None."""

        def layer(name: str) -> Callable[..., None]:
            def leave(_layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
                here = gathered()
                if here is not None:
                    here.given.setdefault(name, []).extend(given.detach() for given in args[:1])
                    output = output.detach()
                    # Q and K may be scaled or turned in place; V counts as it is when it is used.
                    here.made.setdefault(name, []).append(output if name == "to_v" else output.clone())

            return leave

        def out(_layer: nn.Module, args: tuple[Any, ...]) -> None:
            here = gathered()
            if here is not None and args:
                here.result.append(_some(args[0].detach()))

        handles = [
            getattr(module, name).register_forward_hook(untraced(layer(name))) for name in ("to_q", "to_k", "to_v")
        ]
        last = _last(module)
        return handles if last is None else [*handles, last.register_forward_pre_hook(untraced(out))]

    @classmethod
    def begin(
        cls, path: str, module: nn.Module, turn: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> "Gathered":
        """Begin a pass of `module`, which got these arguments."""
        given = dict(kwargs)
        if len(args) > 1:
            given |= zip(inspect.signature(module.forward).parameters, args, strict=False)
        return cls(path, module, turn, next((name for name in MASKS if given.get(name) is not None), None))

    @property
    def own(self) -> bool | None:
        """Whether Q and K were made of the same hidden states; None where they were not both made once."""
        given = [self.given.get(name, []) for name in ("to_q", "to_k")]
        if any(len(inputs) != 1 for inputs in given):
            return None
        query, key = given[0][0], given[1][0]
        if query.shape != key.shape or query.is_meta:
            return query.shape == key.shape
        return query.data_ptr() == key.data_ptr() or torch.equal(query, key)

    def finish(self, output: Any) -> Projected:
        """Put together what the pass showed, at its end.

        Raises
        ------
        ObservationError
            If that is not one softmax of one Q and one K without a mask.
        """
        if self.mask is not None:
            raise ObservationError(
                f"{self.path} got a mask (its argument {self.mask!r}), and what it does with it by hand cannot be "
                f"seen: {KERNEL}"
            )
        counts = [len(self.made.get(name, [])) for name in ("to_q", "to_k", "to_v")]
        if counts != [1, 1, 1]:
            raise ObservationError(
                f"{self.path} computed its attention without being seen: it calls neither torch's "
                f"scaled_dot_product_attention nor its to_q, to_k and to_v once each (but {counts[0]}, {counts[1]} and "
                f"{counts[2]} times): {KERNEL}"
            )
        query, key, value = (self._heads(name) for name in ("to_q", "to_k", "to_v"))
        if key.shape[0] != query.shape[0]:
            key, value = (tensor.expand(query.shape[0], *tensor.shape[1:]) for tensor in (key, value))
        scale = self._scale(int(query.shape[-1]))
        return Projected(query, key, scale, self.own, self._excess(query, key, value, scale, output))

    def _heads(self, name: str) -> Tensor:
        heads, tensor = int(self.module.heads), self.made[name][0]  # type: ignore[arg-type]
        if tensor.ndim < 3 or tensor.shape[-1] % heads:
            raise ObservationError(
                f"{name} of {self.path} gives {tuple(tensor.shape)}, which is not (row, token, channel) with channels "
                f"for {heads} heads: {KERNEL}"
            )
        tensor = tensor.flatten(1, -2)
        return tensor.reshape(*tensor.shape[:2], heads, -1).transpose(1, 2)

    def _scale(self, channels: int) -> float:
        scale = getattr(self.module, "scale", None)
        if isinstance(scale, Tensor) and scale.numel() == 1:
            return float(scale)
        return float(scale) if isinstance(scale, int | float) else channels**-0.5

    def _excess(self, query: Tensor, key: Tensor, value: Tensor, scale: float, output: Any) -> Tensor | None:
        """Compare softmax(Q K^T) V with what went into `to_out`, on a few queries."""
        if query.is_meta:
            return None
        if not self.result and _last(self.module) is None and isinstance(output, Tensor):
            self.result.append(_some(output.detach()))
        wanted = (query.shape[0], min(ROWS, query.shape[-2]), query.shape[1] * value.shape[-1])
        if len(self.result) != 1 or self.result[0].shape != wanted:
            raise ObservationError(
                f"whether the attention of {self.path} is the softmax of its to_q and to_k cannot be proved: its "
                f"to_out does not get (row, query, channel of all heads) once a pass: {KERNEL}"
            )
        # Every row in the first pass, one of them in each that follows.
        rows = int(query.shape[0])
        chosen = slice(self.turn % rows, self.turn % rows + 1) if self.turn else slice(None)
        query, key, value, result = query[chosen], key[chosen], value[chosen], self.result[0][chosen]
        with torch.autocast(query.device.type, enabled=False):
            logits = scale * _some(query, -2).float() @ key.float().transpose(-1, -2)
            shown = (logits.softmax(-1) @ value.float()).transpose(1, 2).flatten(2)
            # A logit is off by the precision times the lengths of its two vectors, and its exponential by as much.
            size = abs(scale) * query.float().norm(dim=-1).amax() * key.float().norm(dim=-1).amax()
            bound = self._precision(query) * (8 + 2 * size) * value.float().abs().amax()
            excess: Tensor = (result.float() - shown).abs().amax() - bound
            # Attention that is no number is found where it is encoded, and named as what it is.
            return torch.where(shown.isfinite().all(), excess, torch.zeros_like(excess))

    def _precision(self, query: Tensor) -> float:
        """Relative rounding error of the numbers that the module computes with."""
        device = query.device.type
        dtypes = {query.dtype, self.result[0].dtype}
        if torch.is_autocast_enabled(device):
            dtypes.add(torch.get_autocast_dtype(device))
        # The proof itself is in float32.
        precision = max(torch.finfo(dtype).eps for dtype in {*dtypes, torch.float32})
        # Products of float32 may be computed with 10 bits of mantissa on a GPU.
        coarse = device == "cuda" and torch.get_float32_matmul_precision() != "highest"
        return max(precision, 2.0**-10) if coarse else precision


def _last(module: nn.Module) -> nn.Module | None:
    """Find the layer after the attention."""
    last = getattr(module, "to_out", None)
    if isinstance(last, nn.ModuleList):
        return last[0] if len(last) else None
    return last if isinstance(last, nn.Module) else None


def _some(tensor: Tensor, dim: int = 1) -> Tensor:
    """Copy some of the queries of `tensor`, evenly spaced."""
    if dim == 1 and tensor.ndim > 3:
        tensor = tensor.flatten(1, -2)
    count = tensor.shape[dim]
    places = torch.linspace(0, count - 1, min(ROWS, count), device=tensor.device).round().long()
    return tensor.index_select(dim, places)
