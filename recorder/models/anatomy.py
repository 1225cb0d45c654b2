"""What differs between denoisers: what the keys of each attention module are, and where the picture is among them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from attlas.recorder.models import scenes
from attlas.recorder.models.scenes import Scene

__all__ = ["ANATOMIES", "Anatomy", "anatomy_of"]


@dataclass(frozen=True)
class Anatomy:
    """Facts about denoisers of one architecture.

    Parameters
    ----------
    denoisers
        Class names.
    kinds
        Pairs of a shell pattern of module paths and the kinds of the module's kernel calls, in order, joined by ``+``
        (``image+text``); the first pattern that fits counts. A module that none fits is cross- or self-attention, as it
        says itself.
    silent
        Pairs of a pattern and the reason why modules that it fits cannot be recorded.
    scene
        Reads the layout of the token sequences from the pipeline, the denoiser and its arguments; None for denoisers
        whose modules get picture-shaped inputs.
    """

    denoisers: tuple[str, ...]
    kinds: tuple[tuple[str, str], ...] = ()
    silent: tuple[tuple[str, str], ...] = ()
    scene: Callable[[Any, nn.Module, Mapping[str, Any]], Scene] | None = None

    def kinds_of(self, path: str) -> tuple[str, ...] | None:
        """Kinds of the kernel calls of the module at `path`, in order; None where the table does not say."""
        for pattern, kinds in self.kinds:
            if fnmatchcase(path, pattern):
                return tuple(kinds.split("+"))
        return None

    def reason(self, path: str) -> str:
        """Why the module at `path` cannot be recorded; empty where it can."""
        return next((reason for pattern, reason in self.silent if fnmatchcase(path, pattern)), "")


_TEXT_QUERIES = "its queries are the text's, not the picture's"
_LINEAR = "linear attention has no softmax, so that there is no attention to record"

ANATOMIES: tuple[Anatomy, ...] = (
    Anatomy(("SD3Transformer2DModel",), (("*.attn2", "self"), ("*", "joint")), scene=scenes.stable_diffusion_3),
    Anatomy(("FluxTransformer2DModel", "ChromaTransformer2DModel"), (("*", "joint"),), scene=scenes.flux),
    Anatomy(("Flux2Transformer2DModel",), (("*", "joint"),), scene=scenes.flux),
    Anatomy(("AuraFlowTransformer2DModel",), (("*", "joint"),), scene=scenes.aura_flow),
    Anatomy(("CogView4Transformer2DModel",), (("*", "joint"),), scene=scenes.cogview_4),
    Anatomy(
        ("ZImageTransformer2DModel",),
        (("noise_refiner.*", "self"), ("*", "joint")),
        (("context_refiner.*", _TEXT_QUERIES),),
        scenes.z_image,
    ),
    Anatomy(
        ("HunyuanVideoTransformer3DModel",),
        (("*", "joint"),),
        (("context_embedder.*", _TEXT_QUERIES),),
        scenes.hunyuan_video,
    ),
    Anatomy(("QwenImageTransformer2DModel",), (("*", "joint"),), scene=scenes.qwen_image),
    Anatomy(
        ("Lumina2Transformer2DModel",),
        (("noise_refiner.*", "self"), ("*", "joint")),
        (("context_refiner.*", _TEXT_QUERIES),),
        scenes.lumina_2,
    ),
    Anatomy(("HunyuanDiT2DModel",), scene=scenes.patches),
    Anatomy(("PixArtTransformer2DModel",), scene=scenes.binned),
    Anatomy(("SanaTransformer2DModel",), silent=(("*.attn1", _LINEAR),), scene=scenes.binned),
    Anatomy(("WanTransformer3DModel",), scene=scenes.wan),
    Anatomy(("CogVideoXTransformer3DModel",), (("*", "joint"),), scene=scenes.cogvideox),
    Anatomy(("LTXVideoTransformer3DModel",), (("*.attn1", "self"), ("*.attn2", "text")), scene=scenes.ltx),
)

_PLAIN = Anatomy(())


def anatomy_of(denoiser: nn.Module) -> Anatomy:
    """Anatomy of `denoiser`; one without entries for classes outside the table, such as every U-Net."""
    names = [cls.__name__ for cls in type(denoiser).__mro__]
    return next((known for name in names for known in ANATOMIES if name in known.denoisers), _PLAIN)
