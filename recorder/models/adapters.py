"""IP-Adapters of an attention module: which of them compute, and how many keys one picture gives."""

from dataclasses import dataclass

from torch import nn

__all__ = ["Adapter", "adapters_of"]


@dataclass(frozen=True)
class Adapter:
    """One IP-Adapter of one attention module.

    ``label`` is its layer's name in a store; ``tokens`` is the number of keys of one picture, 0 where the module does
    not say; ``computes`` is whether its scale is other than 0.
    """

    label: str
    tokens: int
    computes: bool


def adapters_of(path: str, module: nn.Module) -> list[Adapter]:
    """IP-Adapters of the module at `path`, in the order in which they compute."""
    processor = getattr(module, "processor", None)
    projections = getattr(processor, "to_k_ip", None)
    if not isinstance(projections, nn.ModuleList):
        # That of Stable Diffusion 3 looks at the picture and the reference in one softmax, which has no name here.
        return []
    count = len(projections)
    tokens = list(getattr(processor, "num_tokens", ()))
    scales = list(getattr(processor, "scale", ()))
    return [
        Adapter(
            label=f"{path}.processor.to_k_ip.{number}" if count > 1 else path,
            tokens=int(tokens[number]) if len(tokens) == count else 0,
            computes=len(scales) != count or _acts(scales[number]),
        )
        for number in range(count)
    ]


def _acts(scale: object) -> bool:
    """Whether a scale, a number or one for each picture, lets the adapter compute."""
    return any(scale) if isinstance(scale, list) else bool(scale)
