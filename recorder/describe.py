"""The manifest of a recording: which weights, which sampler, which capture, which libraries."""

import hashlib
import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import torch

from attlas.recorder.capture import Capture
from attlas.recorder.probe import components_of, tensors_of
from attlas.schemas import Manifest

__all__ = ["describe", "model_digest"]

SAMPLE = 1024
"""Elements of each tensor that enter the digest, evenly spaced: all of a small one, some of every large one."""


def describe(pipe: Any, capture: Capture, kinds: tuple[str, ...], digest: str | None = None) -> Manifest:
    """Manifest of recordings of `pipe` under `capture`; `kinds` are those that it really takes.

    `digest` is that of its weights, where it is known.
    """
    settings = {**capture.to_json(), "kinds": list(kinds)}
    return Manifest(
        model=_name(pipe),
        model_digest=digest or model_digest(pipe),
        pipeline=type(pipe).__name__,
        scheduler=_scheduler(pipe),
        capture=settings,
        versions={
            "python": platform.python_version(),
            **{
                lib: importlib.metadata.version(lib) for lib in ("attlas", "torch", "diffusers", "transformers", "zarr")
            },
        },
    )


def _name(pipe: Any) -> str:
    """Return the name under which the pipeline was loaded: a hub id, or a folder without the way to it."""
    name = str(getattr(pipe, "name_or_path", "") or type(pipe).__name__)
    folder = Path(name)
    if not folder.exists():
        return name
    folder = folder.resolve()
    return folder.parent.name if folder.name == "pipeline" else folder.name


def _scheduler(pipe: Any) -> dict[str, Any]:
    """Class and settings of the scheduler as plain JSON."""
    config = {key: value for key, value in dict(pipe.scheduler.config).items() if not key.startswith("_")}
    plain: dict[str, Any] = json.loads(json.dumps({"class": type(pipe.scheduler).__name__, **config}, default=str))
    return plain


def model_digest(pipe: Any) -> str:
    """Hash that tells one set of weights from another, in well under a second for a large model.

    BLAKE2b over every module of the pipeline: its class, and of each parameter and buffer the name, shape, dtype
    and up to 1024 evenly spaced elements. A fine-tuning or an adapter changes it; so does another dtype, but neither
    torch.compile nor offloading.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, module in components_of(pipe).items():
        digest.update(f"{name} {type(module).__name__}\n".encode())
        for label, tensor in tensors_of(module).items():
            digest.update(f"{label} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(_sampled_bytes(tensor))
    return digest.hexdigest()


def _sampled_bytes(tensor: torch.Tensor) -> bytes:
    # A tensor on the meta device whose values nobody keeps has none here; its name and shape still count.
    if tensor.is_meta or tensor.numel() == 0:
        return b""
    flat = tensor.reshape(-1)
    if flat.numel() > SAMPLE:
        flat = flat[torch.linspace(0, flat.numel() - 1, SAMPLE, dtype=torch.float64, device=flat.device).long()]
    return bytes(flat.contiguous().cpu().view(torch.uint8).numpy().tobytes())
