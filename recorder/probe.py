"""Whether a pipeline still has the weights that it had: one number of each tensor, read in milliseconds."""

from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

__all__ = ["Probe", "changed", "components_of", "probe", "tensors_of"]

Probe: TypeAlias = dict[str, tuple[tuple[int, ...], torch.dtype, float | None]]
"""Shape, dtype and middle element of each tensor by component and name; no element where there is none to read."""


def components_of(pipe: Any) -> dict[str, nn.Module]:
    """Modules of `pipe` by name, in order of their names; of a compiled one the module that was compiled."""
    modules = {name: getattr(part, "_orig_mod", part) for name, part in sorted(pipe.components.items())}
    return {name: module for name, module in modules.items() if isinstance(module, nn.Module)}


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters, then buffers of `module` by name, as they are without torch.compile and where they are offloaded."""
    found = dict(module.named_parameters()) | dict(module.named_buffers())
    for path, part in module.named_modules():
        hook = getattr(part, "_hf_hook", None)
        for each in getattr(hook, "hooks", (hook,)):
            # accelerate keeps the weights that it moves to the meta device here.
            held: Any = getattr(each, "weights_map", None)
            if held is None:
                continue
            for name in (*part._parameters, *part._buffers):
                label = f"{path}.{name}" if path else name
                if label in found and found[label].is_meta:
                    found[label] = held[name]
    return {name.replace("_orig_mod.", ""): tensor.detach() for name, tensor in found.items()}


def probe(pipe: Any) -> Probe:
    """Read the tensors of `pipe` on which attention depends: all but those of its autoencoder."""
    tensors: dict[str, Tensor] = {}
    for component, module in components_of(pipe).items():
        if component != "vae":
            tensors |= {f"{component}.{name}": tensor for name, tensor in tensors_of(module).items()}
    numbers: dict[str, float] = {}
    groups: dict[tuple[torch.device, torch.dtype], list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.numel() and not tensor.is_meta and not tensor.is_sparse:
            groups.setdefault((tensor.device, tensor.dtype), []).append(name)
    # One tensor for each device, so that a GPU is waited for once.
    for names in groups.values():
        middles = [tensors[name][tuple(size // 2 for size in tensors[name].shape)] for name in names]
        numbers |= zip(names, torch.stack(middles).double().tolist(), strict=True)
    return {name: (tuple(tensor.shape), tensor.dtype, numbers.get(name)) for name, tensor in tensors.items()}


def changed(before: Probe, after: Probe) -> str:
    """Name a tensor that is not what it was, and say why; empty where all are.

    A tensor that could be read only once, because its weights are offloaded, counts as it was.
    """
    for name in [*after, *before]:
        if name not in before or name not in after:
            return f"{name} is {'new' if name in after else 'gone'}"
        (shape, dtype, number), (new_shape, new_dtype, new_number) = before[name], after[name]
        if (shape, dtype) != (new_shape, new_dtype):
            return f"{name} was {shape} {dtype} and is {new_shape} {new_dtype}"
        both_nan = number != number and new_number != new_number
        if number is not None and new_number is not None and number != new_number and not both_nan:
            return f"{name} has other numbers"
    return ""
