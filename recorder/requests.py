"""One request: pipeline arguments checked before anything runs, and their canonical JSON for the store."""

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from attlas.recorder.file_values import FileValue, has_files, with_files_read
from attlas.recorder.models.families import pictures_of
from attlas.recorder.models.inventory import Subject
from attlas.recorder.pictures import reference_pictures
from attlas.schemas.annotations import Annotation, check_annotations
from attlas.schemas.errors import InvalidValueError, unknown_name
from attlas.schemas.records import RunRecord, check_run_id, check_text
from attlas.schemas.words import has_word

__all__ = ["EXTRA_KEYS", "Draft", "Request", "accepted_arguments", "canonical", "prepare"]

EXTRA_KEYS = ("seed", "annotations", "id")
"""Keys of a request that are not arguments of the pipeline."""


@dataclass(frozen=True)
class Draft:
    """What tells a request among others: the ids of its runs, its text, and the roles of annotations of each picture.

    ``files`` says that some of its values lie in files, which stand in the text by their names.
    """

    ids: tuple[str, ...]
    text: str
    roles: tuple[Mapping[str, str | None], ...]
    files: bool


@dataclass(frozen=True)
class Request:
    """A checked request.

    ``ids``, ``seeds``, ``prompts``, ``negatives`` and ``annotations`` have one entry for each picture that it makes;
    ``given`` is the request as the user wrote it.
    """

    given: Mapping[str, Any]
    arguments: Mapping[str, Any]
    ids: tuple[str, ...]
    seeds: tuple[int, ...]
    prompts: tuple[str | None, ...]
    negatives: tuple[str | None, ...]
    annotations: tuple[Mapping[str, Annotation], ...]
    references: tuple[NDArray[np.uint8], ...] | None
    text: str

    @property
    def pictures(self) -> int:
        """Pictures that the request makes, each a run."""
        return len(self.ids)

    @property
    def draft(self) -> Draft:
        """What is needed of it to check others."""
        roles = tuple({name: own.role for name, own in each.items()} for each in self.annotations)
        return Draft(self.ids, self.text, roles, has_files(self.given))

    @property
    def records(self) -> tuple[RunRecord, ...]:
        """What a store notes of each run before it is drawn."""
        told = zip(self.ids, self.seeds, self.prompts, strict=True)
        return tuple(RunRecord(run, seed, prompt or "", self.text) for run, seed, prompt in told)

    def pipeline_arguments(self) -> dict[str, Any]:
        """Return the pipeline's arguments, with fresh generators where there is a seed."""
        arguments = dict(self.arguments)
        seeds = _seed_numbers(self.given)
        if seeds:
            # On the CPU, so that every device starts from the same noise.
            generators = [torch.Generator("cpu").manual_seed(number) for number in seeds]
            arguments["generator"] = generators[0] if len(generators) == 1 else generators
        return arguments

    def shown(self, picture: int) -> dict[str, Any]:
        """Return the request as it is for one picture of its batch."""
        single = {**self.given, "id": self.ids[picture]}
        if self.prompts[picture] is not None:
            single["prompt"] = self.prompts[picture]
        return single


def accepted_arguments(pipe: Any) -> tuple[str, ...]:
    """Names that a request for `pipe`, a pipeline or its class, may have."""
    return (*_parameters(pipe), *EXTRA_KEYS)


def _parameters(pipe: Any) -> dict[str, inspect.Parameter]:
    """Arguments of the pipeline by name."""
    return _parameters_of(pipe if isinstance(pipe, type) else type(pipe))


@lru_cache(maxsize=16)
def _parameters_of(pipeline: type) -> dict[str, inspect.Parameter]:
    found: dict[str, inspect.Parameter] = {}
    for cls in pipeline.__mro__:
        if "__call__" not in vars(cls):
            continue
        parameters = inspect.signature(vars(cls)["__call__"]).parameters.values()
        open_ended = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        found |= {p.name: p for p in parameters if p.kind not in open_ended and p.name not in {"self", *found}}
        # A class that takes anything passes it on to the one that it derives from.
        if not any(p.kind == inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    return found


def prepare(subject: Subject, request: Mapping[str, Any], name: str, *, read: bool = True) -> Request:
    """Check `request` as far as it can be without running it; `name` is its id where it has none.

    Without `read`, values that lie in files stay there: the request can be compared with others, but not be drawn.

    Raises
    ------
    UnknownNameError
        If a key is no argument of the pipeline.
    InvalidValueError
        If a value cannot be used: seed and generator together, a latent output, an annotation whose role needs other
        values, a mask of another size than the picture (where the request tells the size), an id or text that cannot
        be stored.
    """
    if not isinstance(request, Mapping):
        raise InvalidValueError(f"a request is {type(request).__name__}; a dictionary of pipeline arguments is needed")
    accepted = accepted_arguments(subject.pipe)
    for key in request:
        if key not in accepted:
            raise unknown_name("request key", key, accepted, where=f"a request for {type(subject.pipe).__name__}")
    request = _labelled(_meant(subject.pipe, with_files_read(request) if read else request))
    arguments = {key: value for key, value in request.items() if key not in EXTRA_KEYS}
    if arguments.get("output_type") == "latent":
        raise InvalidValueError("output_type 'latent' makes no picture to store; 'pil', 'np' and 'pt' are accepted")
    pictures = pictures_of(subject.family, arguments)
    prompts = _spread("prompt", arguments.get("prompt"), pictures)
    _check_words(subject, prompts)
    ids = _ids(request.get("id"), name, pictures)
    away = has_files(arguments.get(subject.family.reference or ""))
    references = None if away else reference_pictures(subject.family, arguments, pictures)
    annotations = _annotations(request.get("annotations"), pictures)
    if not away:
        _check_annotations(subject, arguments, annotations, references)
    text = canonical({key: value for key, value in request.items() if key != "id"})
    check_text(text, f"request {ids[0]!r}")
    return Request(
        given=dict(request),
        arguments=arguments,
        ids=ids,
        seeds=_seeds(request, pictures),
        prompts=prompts,
        negatives=_spread("negative_prompt", arguments.get("negative_prompt"), pictures),
        annotations=annotations,
        references=None if references is None else tuple(references),
        text=text,
    )


def _ids(given: Any, name: str, pictures: int) -> tuple[str, ...]:
    """Ids of the runs of a request, one for each picture."""
    base = name if given is None else given
    if isinstance(base, bool) or not isinstance(base, str | int | np.integer):
        raise InvalidValueError(f"the id of a request is {type(base).__name__}; text is needed, or a whole number")
    ids = (str(base),) if pictures == 1 else tuple(f"{base}-{index}" for index in range(pictures))
    check_run_id(str(base))
    check_run_id(ids[-1])
    return ids


def _meant(pipe: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is None anyway, so that a request is the same with and without it."""
    parameters = _parameters(pipe)
    none = {name for name in request if name not in parameters or parameters[name].default is None}
    return {key: value for key, value in request.items() if value is not None or key not in none}


def _labelled(request: Mapping[str, Any]) -> dict[str, Any]:
    """Give annotations as such, however they were written, so that one request has one text."""
    given = request.get("annotations")
    if isinstance(given, Mapping):
        return {**request, "annotations": _annotations_of(given)}
    if isinstance(given, list | tuple) and all(isinstance(own, Mapping) for own in given):
        return {**request, "annotations": [_annotations_of(own) for own in given]}
    return dict(request)


def _annotations_of(given: Mapping[str, Any]) -> dict[str, Annotation]:
    return {name: Annotation.of(value, f"annotation {name!r}") for name, value in given.items()}


def _check_words(subject: Subject, prompts: tuple[str | None, ...]) -> None:
    """Check that every prompt has the words whose keys alone are kept."""
    words = subject.capture.keys
    for prompt in dict.fromkeys(prompts):
        for word in () if isinstance(words, str) else words:
            if not has_word(prompt or "", word):
                raise unknown_name("word", word, (prompt or "").split(), where=f"Capture(keys=...) for {prompt!r}")


def _seed_numbers(request: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the seeds as given: none, one for the whole batch, or one for each picture."""
    seed = request.get("seed")
    if seed is None:
        return ()
    numbers = tuple(seed) if isinstance(seed, Sequence) and not isinstance(seed, str) else (seed,)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or not 0 <= number < 2**63:
            raise InvalidValueError(f"seed {number!r} is no whole number from 0 to 2**63 - 1")
    return tuple(int(number) for number in numbers)


def _seeds(request: Mapping[str, Any], pictures: int) -> tuple[int, ...]:
    """Return the seed of each picture, -1 where the request has none."""
    numbers = _seed_numbers(request)
    if numbers and request.get("generator") is not None:
        raise InvalidValueError("a request has both 'seed' and 'generator'; give one of them")
    if len(numbers) not in (0, 1, pictures):
        raise InvalidValueError(f"'seed' has {len(numbers)} numbers for {pictures} pictures; give one, or one for each")
    return numbers * pictures if len(numbers) == 1 else numbers or (-1,) * pictures


def _spread(name: str, value: Any, pictures: int) -> tuple[str | None, ...]:
    """Return a text argument for each picture; pipelines repeat each prompt for its pictures."""
    texts = list(value) if isinstance(value, list | tuple) else [value]
    if pictures % len(texts):
        raise InvalidValueError(f"{name!r} has {len(texts)} entries for {pictures} pictures; give one, or one for each")
    for text in texts:
        if text is not None and not isinstance(text, str):
            raise InvalidValueError(f"{name!r} is {type(text).__name__}; text or a list of texts is needed")
    return tuple(texts[index * len(texts) // pictures] for index in range(pictures))


def _annotations(value: Any, pictures: int) -> tuple[Mapping[str, Annotation], ...]:
    if value is None:
        return ({},) * pictures
    if isinstance(value, Mapping):
        return (value,) * pictures
    if isinstance(value, list | tuple) and len(value) == pictures and all(isinstance(v, Mapping) for v in value):
        return tuple(value)
    raise InvalidValueError(
        f"'annotations' is {type(value).__name__}; a dictionary of names and arrays is needed, or one for each picture"
    )


def _check_annotations(
    subject: Subject,
    arguments: Mapping[str, Any],
    annotations: Sequence[Mapping[str, Annotation]],
    references: Sequence[NDArray[np.uint8]] | None,
) -> None:
    """Check annotations early: their sizes too, where the picture's is known before it is made."""
    size = _picture_size(subject, arguments)
    reference = None if references is None else references[0].shape[:2]
    for entry in annotations:
        here = {name: own for name, own in entry.items() if not has_files(own)}
        check_annotations(here, size, None if reference is None else (reference[0], reference[1]))


def _picture_size(subject: Subject, arguments: Mapping[str, Any]) -> tuple[int, int] | None:
    """Rows and columns of the picture to come, or None where only the pipeline knows."""
    height, width = arguments.get("height"), arguments.get("width")
    if isinstance(height, int) and isinstance(width, int):
        return height, width
    picture = subject.family.picture
    if picture is None or picture not in arguments:
        return None
    value = arguments[picture]
    value = value[0] if isinstance(value, list | tuple) else value
    if isinstance(value, Image.Image):
        return value.height, value.width
    return (int(value.shape[-3]), int(value.shape[-2])) if isinstance(value, np.ndarray) and value.ndim >= 3 else None


def canonical(request: Mapping[str, Any]) -> str:
    """Return the request as JSON that is the same for the same request: keys sorted, pictures and arrays by digest.

    Examples
    --------
    >>> canonical({"seed": 1, "prompt": "a cat", "scale": np.float32(2)})
    '{"prompt": "a cat", "scale": 2.0, "seed": 1}'
    """
    return json.dumps({key: _plain(key, value) for key, value in request.items()}, sort_keys=True, ensure_ascii=False)


def _plain(name: str, value: Any) -> Any:
    """Return `value` as plain JSON."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Annotation):
        return _plain(name, value.values if value.role is None else {"role": value.role, "values": value.values})
    if isinstance(value, Mapping):
        return {str(key): _plain(f"{name}.{key}", entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(name, entry) for entry in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, FileValue):
        return {"file": value.path}
    if isinstance(value, Image.Image):
        return {"picture": _digest(value.tobytes()), "size": [value.height, value.width], "mode": value.mode}
    if isinstance(value, torch.Generator):
        return {"generator": _digest(value.get_state().numpy().tobytes()), "seed": value.initial_seed()}
    if isinstance(value, torch.Tensor):
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return {"tensor": _digest(raw), "shape": list(value.shape), "dtype": str(value.dtype)}
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        raw = np.ascontiguousarray(value).tobytes()
        return {"array": _digest(raw), "shape": list(value.shape), "dtype": str(value.dtype)}
    if callable(value):
        return {
            "function": f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}"
        }
    raise InvalidValueError(
        f"{name!r} of the request is {type(value).__name__}, which the store cannot note; text, numbers, lists, "
        "pictures, arrays, tensors, generators and functions are accepted"
    )


def _digest(raw: bytes) -> str:
    return hashlib.blake2b(raw, digest_size=16).hexdigest()
