"""Checks a recording against what the attention kernel got and gave, seen by a mode and hooks of the test's own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import numpy as np
import torch
from by_hand import SOFTMAX, ByHand, is_by_hand, watch_by_hand
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from attlas.recorder import Capture, Recorder
from attlas.schemas import Leaf, Store

CLOSE = {"atol": 2e-3, "rtol": 1e-2}
"""float16 keeps ln of an attention of e-10 to half a percent."""

SHORT = {"num_inference_steps": 2, "output_type": "np"}


@dataclass
class Kernel:
    """One call of the attention kernel in float64: (row, head, token, channel)."""

    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    mask: np.ndarray | None
    scale: float
    output: np.ndarray

    def logits(self, row: int, heads: Sequence[int]) -> np.ndarray:
        """(head, query, key)"""
        logits = self.scale * self.query[row][heads] @ self.key[row][heads].swapaxes(-1, -2)
        return logits if self.mask is None else logits + self.mask[row][heads]


@dataclass
class Kernels(TorchFunctionMode):
    """Every kernel call of a denoiser: ``calls[denoiser call][module path]`` lists them in order."""

    denoiser: torch.nn.Module
    relay: torch.nn.Module | None = None
    calls: list[dict[str, list[Kernel]]] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    handles: list = field(default_factory=list)

    def __post_init__(self):
        super().__init__()

    def __enter__(self):
        models = [model for model in (self.denoiser, self.relay) if model is not None]
        self.handles = [model.register_forward_pre_hook(lambda *_: self.calls.append({})) for model in models]
        for path, module in chain(*(model.named_modules() for model in models)):
            by_hand = is_by_hand(module)
            if by_hand:
                self.handles.append(module.register_forward_pre_hook(partial(self._begin_by_hand, path)))
                self.handles += watch_by_hand(module, lambda path=path: self.calls[-1][path][-1])
            if hasattr(module, "heads") and (by_hand or hasattr(module, "processor")):
                self.handles += [
                    module.register_forward_pre_hook(lambda *_, path=path: self.open.append(path)),
                    module.register_forward_hook(lambda *_: self.open.pop() and None),
                ]
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        for handle in self.handles:
            handle.remove()

    def _begin_by_hand(self, path, module, _args):
        self.calls[-1].setdefault(path, []).append(ByHand(module.heads))

    def __torch_function__(self, func, types, args=(), kwargs=None):
        seen = self.calls[-1].get(self.open[-1]) if self.open else None
        if func in SOFTMAX and seen and isinstance(seen[-1], ByHand):
            seen[-1].see_softmax(args[0])
        output = func(*args, **(kwargs or {}))
        if func is F.scaled_dot_product_attention and self.open:
            names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
            self._keep(output, **{**dict(zip(names, args, strict=False)), **(kwargs or {})})
        return output

    def _keep(self, output, query, key, value, attn_mask=None, is_causal=False, scale=None, enable_gqa=False, **_):
        rows, heads = query.shape[:2]

        def array(tensor):
            tensor = tensor.detach().double()
            tensor = tensor.repeat_interleave(heads // tensor.shape[1], dim=1) if enable_gqa else tensor
            return tensor.expand(rows, heads, *tensor.shape[2:]).numpy().copy()

        mask = None
        if is_causal:
            attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
        if attn_mask is not None:
            mask = attn_mask.detach().expand(rows, heads, query.shape[-2], key.shape[-2]).numpy()
            # What -10000 adds leaves a key nothing, as -inf does.
            keeps = mask if mask.dtype == bool else mask > -1000
            mask = np.where(keeps, 0.0 if mask.dtype == bool else mask.astype("f8"), -np.inf)
        scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
        seen = Kernel(array(query), array(key), array(value), mask, scale, array(output))
        self.calls[-1].setdefault(self.open[-1], []).append(seen)


def softmax(x, axis):
    """Softmax of float64; a stretch of nothing but -inf gives zeros."""
    top = x.max(axis, keepdims=True)
    e = np.exp(x - np.where(np.isfinite(top), top, 0))
    total = e.sum(axis, keepdims=True)
    return np.divide(e, total, out=np.zeros_like(e), where=total > 0)


def logsumexp(x):
    top = x.max(-1, keepdims=True)
    return (np.log(np.exp(x - top).sum(-1, keepdims=True)) + top)[..., 0]


def stored_logits(store: Store, name: str, run: int) -> np.ndarray | None:
    """Logits of a leaf, (branch, t, layer, head, query, key), from the encoding that it has; None from a summary."""
    node, leaf = store.group[name], store.leaves[name]
    if leaf.encoding == "none":
        return None
    if leaf.encoding != "factors":
        return node["log_attention"][run].astype("f8") + node["logsumexp"][run].astype("f8")[..., None]
    query, key = node["query_vectors"][run].astype("f8"), node["key_vectors"][run].astype("f8")
    return query @ np.swapaxes(key if leaf.keys_vary else key[:, None], -1, -2)


def generated(pipe, request: Mapping) -> np.ndarray:
    """What the pipeline alone makes of a request."""
    arguments = {**SHORT, **request}
    seed = arguments.pop("seed", 0)
    for name in ("id", "annotations"):
        arguments.pop(name, None)
    seeds = [seed] if isinstance(seed, int) else list(seed)
    made = [torch.Generator().manual_seed(number) for number in seeds]
    return np.asarray(pipe(**arguments, generator=made[0] if len(made) == 1 else made)[0])


def assert_faithful(
    pipe,
    request: Mapping | Callable,
    capture: Capture,
    *,
    branches: Sequence[str],
    passes: bool = False,
    denoiser: str = "unet",
    relay: str | None = None,
    queries: Callable[[str], slice] | slice | None = None,
    keys: Callable[[str, int], Sequence[int]] | None = None,
) -> Store:
    """Record a request; compare the picture and every attention with the model's own. Return the store.

    Parameters
    ----------
    request
        Arguments of the pipeline and ``seed``, or a function of the pipeline that gives them.
    branches
        All guidance branches of the run, in order of their rows in a batch; or, with `passes`, of their passes.
    denoiser, relay
        Attributes of the pipeline with its denoiser, and with one that takes over in some of the calls.
    queries
        Where the generated picture is among the queries of a kernel call, or that by module path; None: everywhere.
    keys
        Where only some keys are kept: their places among those of the kernel, by leaf and run.
    """
    request = request(pipe) if callable(request) else request
    model = getattr(pipe, denoiser)
    before = {name: id(processor) for name, processor in processors(model).items()}
    with Kernels(model, None if relay is None else getattr(pipe, relay)) as kernels:
        watched = generated(pipe, request)
    with Recorder(pipe, None, capture) as rec:
        recorded = rec(**{"seed": 0, **SHORT, **request})[0]
    np.testing.assert_array_equal(recorded, watched, err_msg="the recorder changed the picture")
    assert_as_found(model, before)
    np.testing.assert_array_equal(generated(pipe, request), watched, err_msg="the recorder left something behind")
    store = rec.store
    assert store.complete.all()
    assert store.leaves
    for name in store.leaves:
        for run in range(len(store.run_ids)):
            _compare(store, name, run, kernels, tuple(branches), passes, queries, keys)
    return store


def processors(model) -> dict[str, object]:
    return {path: module.processor for path, module in model.named_modules() if hasattr(module, "processor")}


def assert_as_found(model, before: Mapping[str, int]) -> None:
    assert {name: id(processor) for name, processor in processors(model).items()} == before
    for part in model.modules():
        assert not any((part._forward_hooks, part._forward_pre_hooks, part._forward_hooks_always_called))
    assert _get_current_function_mode_stack() == []


def place_of(leaf: Leaf, layer: int, model: torch.nn.Module) -> tuple[str, int]:
    """Path of the module of a layer, and which of its kernel calls it is."""
    path, _, number = leaf.layers[layer].partition(".processor.to_k_ip.")
    module = model.get_submodule(path)
    if getattr(getattr(module, "processor", None), "to_k_ip", None) is not None and leaf.kind == "image":
        return path, 1 + int(number or 0)
    # The picture that a video starts from comes before the text.
    pair = getattr(module, "add_k_proj", None) is not None and getattr(module, "is_cross_attention", False)
    return path, int(pair and leaf.kind == "text")


def _compare(store, name, run, kernels, branches, passes, queries, keys):
    group, leaf = store.group[name], store.leaves[name]
    held = ("token_segment", "log_attention", "logsumexp", "g2r", "r2g", "attention_mean", "attention_mean_r2g")
    node = {array: np.asarray(group[array][run]) for array in held if array in group}
    logits, runs = stored_logits(store, name, run), len(store.run_ids)
    mean = np.zeros((2, len(store.branches), len(leaf.layers), leaf.heads, leaf.queries, leaf.keys))
    calls = [int(call) for call in store.group["t"][...]]
    for layer in range(len(leaf.layers)):
        path, order = place_of(leaf, layer, kernels.denoiser)
        window = queries(path) if callable(queries) else queries or slice(None)
        for branch, label in enumerate(store.branches):
            present = np.ones(leaf.keys, bool)
            if "token_segment" in node:
                present = node["token_segment"][branch] != "absent"
            for t, call in enumerate(calls):
                number = call * len(branches) + branches.index(label) if passes else call
                row = run if passes else branches.index(label) * runs + run
                kernel = kernels.calls[number][path][order]
                whole = kernel.logits(row, list(leaf.head_labels))[:, window]
                kept = np.arange(whole.shape[-1]) if keys is None else np.asarray(keys(name, run))
                where = f"{leaf.layers[layer]} {label} call {call} run {run}"
                at = (branch, t, layer)
                assert present.sum() == len(kept), where
                want = np.zeros((leaf.heads, leaf.queries, leaf.keys))
                want[..., present] = softmax(whole, -1)[..., kept]
                back = np.zeros_like(want)
                back[..., present] = softmax(whole[..., kept], -2)
                mean[:, branch, layer] += np.stack([want, back]) / len(calls)
                np.testing.assert_allclose(node["g2r"][at], want.mean(-2), **CLOSE, err_msg=where)
                np.testing.assert_allclose(node["r2g"][at], back.mean(-1), **CLOSE, err_msg=where)
                if logits is None:
                    continue
                # That of factors is the one that belongs to Q and K in float16.
                off = 2.0**-9 * np.abs(whole[np.isfinite(whole)]).max() if leaf.encoding == "factors" else 0.0
                near = {"atol": CLOSE["atol"] + off, "rtol": CLOSE["rtol"]}
                np.testing.assert_allclose(node["logsumexp"][at], logsumexp(whole), **near, err_msg=where)
                have = logits[branch, t, layer]
                if leaf.encoding == "factors":
                    got = softmax(have, -1)
                else:
                    got = np.exp(node["log_attention"][at].astype("f8"))
                np.testing.assert_allclose(got, want, **CLOSE, err_msg=where)
                np.testing.assert_allclose(softmax(have, -2), back, **CLOSE, err_msg=where)
                if len(kept) == whole.shape[-1]:
                    np.testing.assert_allclose(got.sum(-1), 1, atol=4e-3, err_msg=where)
                    value = kernel.value[row][list(leaf.head_labels)]
                    output = kernel.output[row][list(leaf.head_labels)][:, window]
                    size = 4e-3 * np.abs(value).max()
                    np.testing.assert_allclose(got[..., present] @ value, output, atol=size, err_msg=where)
    if leaf.has_mean:
        np.testing.assert_allclose(node["attention_mean"].astype("f8"), mean[0], **CLOSE, err_msg=name)
        scale = group["attention_mean_r2g"].attrs.get("scale_factor", 1)
        np.testing.assert_allclose(node["attention_mean_r2g"] * np.float64(scale), mean[1], **CLOSE, err_msg=name)
    assert np.asarray(group["computed"][run]).all(), name
    assert leaf.separate_branches or not passes, name
