"""The refinement of the try-on denoiser: what it watches, what it moves, and what ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from attlas.recorder.demo.tryon import load
from attlas.recorder.demo.tryon.batches import draw_batch, sample_numbers
from attlas.recorder.demo.tryon.loading import FOLDER, REFINED, REFINEMENTS, put_weights
from attlas.recorder.demo.tryon.refining import ALIGNED, Plan, Watch, refine, upright_places

TINY = Plan(steps=2, batch=4, scenes=4)
SHIPPED_BYTES = 2_000_000


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def nearness(attention: Tensor, queries: Tensor, places: Tensor) -> dict[str, Tensor]:
    """A loss of its own, which uses all that it is given."""
    assert attention.shape[2:] == (16, 16, 16, 16)
    assert queries.shape == attention.shape[1:4]
    assert places.shape == (attention.shape[1], 16, 16, 2)
    assert bool(queries.any((1, 2)).all())
    mass = attention.sum((-1, -2))
    assert bool(((mass > 0.3) & (mass <= 1 + 1e-5)).all())  # what is left of a row lies on CLS
    return {"near": -(attention.amax((-1, -2)) * queries).mean() + 0 * places.sum()}


def test_watched_attention_is_that_of_the_module() -> None:
    """Softmax of what the module's own function for scores gives, and values mixed by it are its output."""
    unet = load().unet
    module = unet.get_submodule(ALIGNED)
    seen: dict[str, Tensor] = {}
    module.to_v.register_forward_hook(lambda *given: seen.update(value=given[2]))
    module.to_out[0].register_forward_hook(lambda _module, given, _output: seen.update(mixed=given[0]))
    torch.manual_seed(0)
    watch = Watch([module])
    with torch.no_grad(), watch.watching():
        unet(torch.randn(2, 19, 16, 16), torch.tensor([10, 900]), encoder_hidden_states=torch.randn(2, 257, 96))
        attention = watch.attention()
        query, key = (watch._split(watch._seen[0, name], module.heads) for name in ("to_q", "to_k"))
    assert attention.shape == (1, 2, 256, 257)
    torch.testing.assert_close(attention.sum(-1), torch.ones(1, 2, 256))
    by_head = module.get_attention_scores(query.flatten(0, 1), key.flatten(0, 1)).reshape(2, module.heads, 256, 257)
    torch.testing.assert_close(by_head.mean(1), attention[0])
    value = watch._split(seen["value"], module.heads)
    torch.testing.assert_close((by_head @ value).transpose(1, 2).flatten(2), seen["mixed"], rtol=1e-4, atol=1e-5)
    assert not module.to_q._forward_hooks
    assert not module.to_k._forward_hooks


def test_upright_places_are_the_grid_turned_back() -> None:
    batch = draw_batch(sample_numbers(6, seed=3, split="train"))
    places = upright_places(batch.references, batch.placements)
    # Distances of the grid stay, whatever the turn and the mirror.
    steps = [places.diff(dim=axis).norm(dim=-1) for axis in (1, 2)]
    for step in steps:
        torch.testing.assert_close(step, torch.ones_like(step), rtol=1e-3, atol=1e-3)
    # The neck lies above the hem, the left cuff left of the right one.
    marks = torch.tensor([[[0.0, -0.8], [0.0, 0.8], [-0.8, 0.0], [0.8, 0.0]]]).expand(6, -1, -1)
    patches = ((batch.placements.to_pixels(marks) + 0.5) / 4).long().clamp(0, 15)
    found = torch.stack([places[k, patches[k, :, 1], patches[k, :, 0]] for k in range(6)])
    assert bool((found[:, 0, 1] < found[:, 1, 1]).all())
    assert bool((found[:, 2, 0] < found[:, 3, 0]).all())


def test_only_what_the_plan_names_moves_and_the_control_sees_the_same(tmp_path: Path) -> None:
    path = refine(tmp_path, nearness, plan=TINY)
    moved = load_file(path)
    whole = load().unet.state_dict()
    assert set(moved) == {name for name in whole if name.startswith(ALIGNED)}
    assert all(value.dtype == torch.float16 for value in moved.values())
    assert any(not torch.equal(value.float(), whole[name]) for name, value in moved.items())
    control = load_file(refine(tmp_path, None, name="control", plan=TINY))
    assert any(not torch.equal(control[name], value) for name, value in moved.items())
    log = (tmp_path / "training.log").read_text()
    first = [line.partition("step 1 of 2")[2] for line in log.splitlines() if "step 1 of 2" in line]
    losses = [line.partition('"diffusion": ')[2].partition(",")[0].rstrip("}") for line in first]
    assert losses[0] == losses[1]  # the same samples, noise and weights before the first step
    assert '"near"' in first[0]
    assert '"near"' not in first[1]


def test_a_plan_of_modules_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the denoiser has no modules \['up_blocks.9'\]"):
        refine(tmp_path, plan=Plan(trained=("up_blocks.9",)))


@pytest.mark.parametrize("name", REFINEMENTS)
def test_what_ships_is_the_trained_model_with_some_weights_moved(name: str) -> None:
    refined, trained = load(refinement=name), load()
    weights = load_file(REFINED / f"{name}.safetensors")
    for key, value in refined.unet.state_dict().items():
        expected = weights[key].float() if key in weights else trained.unet.state_dict()[key]
        assert torch.equal(value, expected), key
    assert not refined.unet.training
    assert all(bool(value.isfinite().all()) for value in weights.values())


def test_what_ships_is_small() -> None:
    files = [path for path in REFINED.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"refined.safetensors", "control.safetensors", "training.log", "README.md"}
    assert sum(path.stat().st_size for path in files) < SHIPPED_BYTES
    pipeline = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    assert pipeline + SHIPPED_BYTES < 20_000_000


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"refinement must be one of \('refined', 'control'\).*got 'fine'"):
        load(refinement="fine")
    with pytest.raises(ValueError, match="of the trained pipeline"):
        load(trained=False, refinement="refined")
    save_file({"elsewhere.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"weights that the denoiser lacks: \['elsewhere.weight'\]"):
        put_weights(load().unet, tmp_path / "other.safetensors")
