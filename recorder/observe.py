"""Sees each attention kernel call of a denoiser, without changing what computes.

A torch function mode sees `scaled_dot_product_attention`; hooks tell which module is computing. Nothing is
replaced: the kernel gets the tensors that it would have got, and its result goes where it would have gone.
"""

import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from attlas.recorder.projections import Gathered, projects
from attlas.schemas.errors import ObservationError

__all__ = ["Sighting", "Watch", "is_compiled"]

_KERNEL = F.scaled_dot_product_attention
_PARAMETERS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


@dataclass(frozen=True)
class Sighting:
    """One kernel call, with the live tensors: copy what you keep before you return.

    Dims: ``query`` (row, head, query, channel), ``key`` (row, head, key, channel); ``mask`` broadcasts to
    (row, head, query, key), boolean (True keeps) or additive. ``order`` counts the calls inside one module run.
    ``own`` says whether Q and K were made of the same hidden states, where that was seen.
    """

    path: str
    order: int
    grid: tuple[int, int] | None
    query: Tensor
    key: Tensor
    mask: Tensor | None
    scale: float
    own: bool | None = None


@dataclass
class _Frame:
    """One attention module that is computing now; ``gathered`` is what its layers showed, where they are watched."""

    path: str
    grid: tuple[int, int] | None
    gathered: Gathered | None = None
    seen: int = 0
    mode: ExitStack = field(default_factory=ExitStack)


class Watch:
    """Context manager that calls `note` with a `Sighting` of each kernel call in the modules at `paths`.

    Modules that are not of diffusers and make no kernel call are seen by their projections instead.

    Leaving it, by any road, takes every hook away. A module that computed unseen raises `ObservationError`. What
    computes outside a forward pass of the denoiser, such as the second time of checkpointed blocks in a backward pass,
    does not count.

    Parameters
    ----------
    denoiser
        Module whose attention counts; calls outside it (text encoders, autoencoders) are not seen.
    paths
        Paths of the attention modules inside `denoiser`.
    note
        Called inside the kernel's call, before anything else computes.
    begin, end
        Called before and after each forward pass of `denoiser`: `begin` with its arguments.
    compiled
        Whether `denoiser` runs under `torch.compile`.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        paths: Collection[str],
        note: Callable[[Sighting], None],
        *,
        begin: Callable[[tuple[Any, ...], dict[str, Any]], None] | None = None,
        end: Callable[[], None] | None = None,
        compiled: bool = False,
    ) -> None:
        self._denoiser = denoiser
        self._paths = frozenset(paths)
        self._note = note
        self._begin = begin
        self._end = end
        self._frames: list[_Frame] = []
        self._grids: list[tuple[int, int] | None] = []
        self._excess: list[tuple[str, Tensor]] = []
        self._exit = ExitStack()
        self._compiled = compiled
        self._inside = False
        self._thread = 0
        self._turn = 0
        self._mode = _Mode(self._untraced(self._see))

    def __enter__(self) -> Self:
        self._thread = threading.get_ident()
        around = {parent for path in self._paths for parent in _parents(path)}
        with ExitStack() as stack:
            for path, module in self._denoiser.named_modules():
                if path in self._paths:
                    self._hook(stack, module, self._enter_attention(path), self._leave_attention)
                    if projects(module):
                        for handle in Gathered.watch(module, self._gathering(path), self._untraced):
                            stack.callback(handle.remove)
                elif path in around:
                    self._hook(stack, module, self._enter_around, self._leave_around)
            self._hook(stack, self._denoiser, self._enter_denoiser, self._leave_denoiser)
            if self._compiled:
                # Without guards on hooks, code that was traced for one module runs for another one like it, which has
                # hooks of its own or none.
                stack.enter_context(torch._dynamo.config.patch(skip_nnmodule_hook_guards=False))
                # Traced code must find the mode where it was traced: around everything.
                stack.enter_context(self._mode)
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # torch runs no hook after a KeyboardInterrupt, so that modules may still be open.
        while self._frames:
            self._close_frame()
        self._exit.close()
        self._grids.clear()
        self._excess.clear()
        self._inside = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Refuse: a copied module would have hooks that nobody takes away."""
        raise ObservationError(
            f"a {type(self._denoiser).__name__} cannot be copied while it is recorded; copy it before or after the run"
        )

    def _hook(
        self, stack: ExitStack, module: nn.Module, before: Callable[..., None], after: Callable[..., None]
    ) -> None:
        for handle in (
            module.register_forward_pre_hook(self._untraced(before), with_kwargs=True),
            module.register_forward_hook(self._untraced(after), always_call=True),
        ):
            stack.callback(handle.remove)

    def _untraced(self, function: Callable[..., None]) -> Callable[..., None]:
        """Keep torch.compile out of `function`; elsewhere its tracer, which takes seconds to load, is not needed."""
        if not self._compiled:
            return function
        disable: Callable[[Callable[..., None]], Callable[..., None]] = torch.compiler.disable
        return disable(function)

    @property
    def _counts(self) -> bool:
        """Whether what computes now belongs to the denoiser's forward pass."""
        return self._inside and self._thread == threading.get_ident()

    def _enter_denoiser(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._thread != threading.get_ident():
            raise ObservationError(
                f"{type(module).__name__} was called in another thread than the one that records it: what is whose "
                "cannot be told; call the recorder in the thread that runs the pipeline, and give each thread a "
                "pipeline of its own"
            )
        self._inside = True
        if self._begin is not None:
            self._begin(args, kwargs)

    def _leave_denoiser(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        if not self._counts:
            return
        self._inside = False
        self._turn += 1
        excess, self._excess = self._excess, []
        # torch calls an always-called hook with None when the module raised.
        if output is None:
            return
        # At the end of all modules, so that a GPU is waited for once.
        for (path, _), wrong in zip(excess, _positive([value for _, value in excess]), strict=True):
            if wrong:
                raise ObservationError(_another_softmax(path))
        if self._end is not None:
            self._end()

    def _enter_around(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Attention gets a list of tokens; a module around it may get them in rows and columns still."""
        if not self._counts:
            return
        grid = _picture_grid(args, kwargs)
        if grid is not None and getattr(module, "is_input_patches", False):
            grid = (grid[0] // int(module.patch_size), grid[1] // int(module.patch_size))  # type: ignore[arg-type]
        self._grids.append(grid or (self._grids[-1] if self._grids else None))

    def _leave_around(self, _module: nn.Module, _args: tuple[Any, ...], _output: Any) -> None:
        if self._counts and self._grids:
            self._grids.pop()

    def _enter_attention(self, path: str) -> Callable[..., None]:
        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not self._counts:
                return
            grid = _picture_grid(args, kwargs) or (self._grids[-1] if self._grids else None)
            gathered = Gathered.begin(path, module, self._turn, args, kwargs) if projects(module) else None
            self._frames.append(_Frame(path, grid, gathered))
            if not self._compiled:
                # Only around the modules that are watched: passing every call of a model on takes its time.
                self._frames[-1].mode.enter_context(self._mode)

        return enter

    def _gathering(self, path: str) -> Callable[[], Gathered | None]:
        """Give what a layer of the module at `path` shows to that module's frame, where it computes now."""

        def frame() -> Gathered | None:
            here = self._counts and self._frames and self._frames[-1].path == path
            return self._frames[-1].gathered if here else None

        return frame

    def _close_frame(self) -> _Frame:
        frame = self._frames.pop()
        frame.mode.close()
        return frame

    def _leave_attention(self, module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        frame = self._close_frame() if self._counts and self._frames else None
        if output is None or frame is None or frame.seen:
            return
        if frame.gathered is None:
            raise ObservationError(_unseen(frame.path, module))
        shown = frame.gathered.finish(output)
        if shown.excess is not None:
            self._excess.append((frame.path, shown.excess))
        self._note(Sighting(frame.path, 0, frame.grid, shown.query, shown.key, None, shown.scale, shown.own))

    def _see(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if not self._counts or not self._frames:
            return
        frame = self._frames[-1]
        call = {**dict(zip(_PARAMETERS, args, strict=False)), **kwargs}
        query, key = call["query"].detach(), call["key"].detach()
        if query.ndim != 4 or key.ndim != 4:
            raise ObservationError(
                f"{frame.path} gave the attention kernel Q of shape {tuple(query.shape)} and K of shape "
                f"{tuple(key.shape)}; (row, head, token, channel) is needed"
            )
        if call.get("enable_gqa"):
            key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        key = key.expand(*query.shape[:2], *key.shape[2:])
        mask = call.get("attn_mask")
        if call.get("is_causal"):
            mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        scale = call.get("scale")
        scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
        order, frame.seen = frame.seen, frame.seen + 1
        own = None if frame.gathered is None else frame.gathered.own
        self._note(Sighting(frame.path, order, frame.grid, query, key, mask, scale, own))


class _Mode(TorchFunctionMode):
    """Passes every torch call on, and shows the attention kernel's to `see`."""

    def __init__(self, see: Callable[[tuple[Any, ...], Mapping[str, Any]], None]) -> None:
        super().__init__()
        self._see = see

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is _KERNEL:
            self._see(args, kwargs or {})
        return func(*args, **(kwargs or {}))


def _parents(path: str) -> list[str]:
    """Paths of the modules around the one at `path`, less the denoiser itself."""
    names = path.split(".")
    return [".".join(names[:count]) for count in range(1, len(names))]


def is_compiled(module: nn.Module) -> bool:
    """Whether torch.compile is at work in `module` or in a part of it."""
    return any(hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in module.modules())


def _picture_grid(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[int, int] | None:
    """Rows and columns of a module's hidden states, where they still have the shape of a picture."""
    hidden = args[0] if args else kwargs.get("hidden_states", kwargs.get("x"))
    if isinstance(hidden, Tensor) and hidden.ndim == 4:
        return int(hidden.shape[-2]), int(hidden.shape[-1])
    return None


def _positive(values: list[Tensor]) -> list[bool]:
    """Whether each of the numbers is positive, or none at all."""
    return [] if not values else [not value <= 0 for value in torch.stack(values).tolist()]


def _another_softmax(path: str) -> str:
    return (
        f"{path} computes its attention by hand, and it is not softmax(scale Q K^T) of what its to_q and to_k give: a "
        "norm, positions, a mask, a second attention or another scale come between; set its attribute 'scale' if it is "
        "that, let it call torch.nn.functional.scaled_dot_product_attention, whose calls are recorded as they are, or "
        "leave it out of Capture(layers=...)"
    )


def _unseen(path: str, module: nn.Module) -> str:
    processor = type(getattr(module, "processor", None)).__name__
    return (
        f"{path} computed its attention without being seen: its processor {processor} does not call "
        "torch's scaled_dot_product_attention (attention slicing, xformers and hand-written attention do not); "
        "call pipe.disable_attention_slicing(), pipe.disable_xformers_memory_efficient_attention(), "
        "pipe.unet.set_attn_processor(AttnProcessor2_0()) or pipe.transformer.set_attention_backend('native'), or "
        "leave this layer out of Capture(layers=...)"
    )
