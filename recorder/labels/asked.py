"""What a request asks of a pipeline's text encoders, as the pipeline itself reads it."""

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusers.utils import is_bs4_available, is_ftfy_available

from attlas.recorder.labels.wording import Wording

__all__ = ["Asked", "from_module"]


@dataclass(frozen=True)
class Asked:
    """The text of one guidance branch of one picture.

    Parameters
    ----------
    pipe
        The pipeline.
    prompt
        The picture's prompt, or its negative prompt; None where the request gives none.
    keys
        Number of text keys that the denoiser got.
    arguments
        The request's pipeline arguments.
    negative
        Whether this is the branch of the negative prompt.
    picture, pictures
        Which picture of a batch of how many, for arguments that are lists.
    """

    pipe: Any
    prompt: str | None
    keys: int
    arguments: Mapping[str, Any]
    negative: bool = False
    picture: int = 0
    pictures: int = 1

    def setting(self, name: str) -> Any:
        """Argument of the call: as given, or the pipeline's own default; None where it has no such argument."""
        if name in self.arguments:
            return self.arguments[name]
        for cls in type(self.pipe).__mro__:
            if "__call__" in vars(cls):
                parameter = inspect.signature(vars(cls)["__call__"]).parameters.get(name)
                if parameter is not None:
                    return None if parameter.default is inspect.Parameter.empty else parameter.default
        return None

    def text(self, number: int = 1) -> str:
        """Text that the pipeline gives to its tokenizer `number`: ``prompt_2`` or else ``prompt``, and so on."""
        stem = "negative_prompt" if self.negative else "prompt"
        other = self._own(self.arguments.get(f"{stem}_{number}")) if number > 1 else None
        first = self.prompt if self.prompt is not None else self._own(self.setting(stem))
        return str(other or first or "")

    def texts(self) -> list[str]:
        """First texts of the whole batch: its longest says how far the others are padded."""
        given = self.arguments.get("negative_prompt" if self.negative else "prompt")
        return [str(text) for text in given] if isinstance(given, list | tuple) else [self.text()]

    def wording(self, number: int = 1, tokenizer: Any = None) -> Wording:
        """Text for tokenizer `number`, cleaned and with learned words spelled out as the pipeline does it."""
        made = Wording.of(self.text()).rewritten(self.text(number))
        made = made.rewritten(self._cleaned(made.text))
        convert = getattr(self.pipe, "maybe_convert_prompt", None)
        if tokenizer is None or not callable(convert):
            return made
        return made.expanded(getattr(tokenizer, "added_tokens_encoder", ()), str(convert(made.text, tokenizer)))

    def _own(self, value: Any) -> Any:
        """Value of this picture, where an argument has one for each prompt."""
        if isinstance(value, list | tuple):
            return value[self.picture * len(value) // self.pictures]
        return value

    def _cleaned(self, text: str) -> str:
        """Clean a text as PixArt and its kin do, or Wan and its kin."""
        prepare = getattr(self.pipe, "_text_preprocessing", None)
        if callable(prepare):
            able = is_bs4_available() and is_ftfy_available()
            return str(prepare(text, clean_caption=bool(able and self.setting("clean_caption")))[0])
        clean = from_module(self.pipe, "prompt_clean")
        return str(clean(text)) if callable(clean) else text


def from_module(pipe: Any, name: str) -> Any:
    """Return what the module of a pipeline, or of a class that it derives from, calls `name`; None where none does."""
    modules = (sys.modules.get(cls.__module__) for cls in type(pipe).__mro__)
    return next((getattr(module, name) for module in modules if hasattr(module, name)), None)
