"""What lets a store answer for words that were in no prompt: their embeddings, and W_k of each text layer."""

import inspect
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from attlas.recorder.labels.tokens import label_tokens
from attlas.schemas.errors import CaptureError
from attlas.schemas.vocabulary import Vocabulary

__all__ = ["embed", "key_features", "key_projection"]


def key_features(module: nn.Module) -> int:
    """Length of the embeddings that `module` projects to keys; 0 where its K is more than one product with W_k.

    A norm of K, a bias or an adapter inside ``to_k`` makes it more.
    """
    project = getattr(module, "to_k", None)
    if type(project) is not nn.Linear or getattr(project, "bias", None) is not None:
        return 0
    if any(getattr(module, name, None) is not None for name in ("norm_k", "norm_cross")):
        return 0
    return int(project.in_features)


def key_projection(module: nn.Module, heads: tuple[int, ...], channels: int) -> NDArray[np.float16]:
    """W_k of `module` for some of its heads, (feature, head and channel), so that K = embedding @ W_k."""
    weight: torch.Tensor = module.to_k.weight  # type: ignore[union-attr, assignment]
    made = weight.detach().float().cpu().numpy().reshape(-1, channels, weight.shape[1])[list(heads)]
    return made.reshape(-1, weight.shape[1]).T.astype(np.float16)


def embed(pipe: Any, words: tuple[str, ...]) -> Vocabulary:
    """Encode each word alone with the pipeline's own text encoder, as it encodes a prompt.

    Raises
    ------
    CaptureError
        If the pipeline has no ``encode_prompt`` whose first result is the embeddings.
    """
    encode = getattr(pipe, "encode_prompt", None)
    if not callable(encode):
        raise CaptureError(
            f"{type(pipe).__name__} has no encode_prompt, which is to embed the words of Capture(vocabulary=...)"
        )
    accepted = inspect.signature(encode).parameters
    options = {
        "device": getattr(pipe, "_execution_device", torch.device("cpu")),
        "num_images_per_prompt": 1,
        "do_classifier_free_guidance": False,
    }
    settings = {name: value for name, value in options.items() if name in accepted}
    tokens, segments, embeddings = [], [], []
    for word in words:
        with torch.no_grad():
            result = encode(word, **settings)
        found = result[0] if isinstance(result, tuple | list) else result
        if not isinstance(found, torch.Tensor) or found.ndim != 3:
            raise CaptureError(
                f"encode_prompt of {type(pipe).__name__} gives {type(found).__name__} first; embeddings "
                "(row, token, feature) are needed for Capture(vocabulary=...)"
            )
        labels = label_tokens(pipe, word, int(found.shape[1]), {})
        own = [place for place, segment in enumerate(labels.segments) if segment in ("bos", "word", "eos")]
        tokens.append(tuple(labels.tokens[place] for place in own))
        segments.append(tuple(labels.segments[place] for place in own))
        embeddings.append(found[0, own].float().cpu().numpy())
    return Vocabulary(words, tuple(tokens), tuple(segments), tuple(embeddings))
