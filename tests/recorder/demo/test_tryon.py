"""The try-on demo world: its data against an independent warp, its pipeline, its training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import (
    binary_dilation,
    binary_erosion,
    label,
    map_coordinates,
    maximum_filter,
    minimum_filter,
)

from attlas.recorder.demo.tryon import TryOnPipeline, load, requests
from attlas.recorder.demo.tryon.batches import BACKDROP, PLACEMENT, sample_numbers
from attlas.recorder.demo.tryon.garments import TRIMS, draw_garments, uniforms
from attlas.recorder.demo.tryon.loading import FOLDER
from attlas.recorder.demo.tryon.scenes import draw_placements, draw_references, place
from attlas.recorder.demo.tryon.stages import Workshop, run_stage
from attlas.recorder.demo.tryon.training import Plan, train
from attlas.schemas import Annotation

INPUTS = ("reference_image", "figure_image", "mask_image", "body_uv")
MAXIMUM_BYTES = 10_400_000


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    # Tiny models lose time to threads, and tests run side by side.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pipeline() -> TryOnPipeline:
    return load()


def inputs_of(request: dict[str, Any]) -> dict[str, Any]:
    return {name: request[name] for name in INPUTS}


def truth_of(request: dict[str, Any]) -> dict[str, np.ndarray]:
    """Values of the annotations."""
    return {name: own.values for name, own in request["annotations"].items()}


def noise(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


# ---------------------------------------------------------------------------------------------------- requests


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, Annotation):
        assert one.role == other.role
        np.testing.assert_array_equal(one.values, other.values)
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other)
    else:
        assert one == other


@pytest.mark.parametrize("swapped", [False, True])
def test_requests_are_the_same_for_the_same_seed_and_any_number(swapped: bool) -> None:
    three, two = requests(3, seed=4, swapped=swapped), requests(2, seed=4, swapped=swapped)
    for one, other in zip(three, two, strict=False):
        assert_same(one, other)
    assert not np.array_equal(three[0]["reference_image"], three[1]["reference_image"])
    assert not np.array_equal(three[0]["reference_image"], requests(1, seed=5)[0]["reference_image"])


def test_requests_have_the_promised_arrays() -> None:
    request = requests(8)[7]
    assert request["id"] == "tryon-0007"
    assert request["num_inference_steps"] == 20
    assert isinstance(request["seed"], int)
    expected = {
        "reference_image": ((64, 64, 3), np.uint8),
        "figure_image": ((64, 64, 3), np.uint8),
        "mask_image": ((64, 64), np.bool_),
        "body_uv": ((64, 64, 2), np.float32),
    }
    annotations = {
        "garment": ((64, 64), np.bool_),
        "reference_garment": ((64, 64), np.bool_),
        "correspondence": ((64, 64, 2), np.float32),
        "uv_lookup": ((64, 64, 2), np.float32),
        "target": ((64, 64, 3), np.uint8),
    }
    for found, wanted in ((request, expected), (truth_of(request), annotations)):
        for name, (shape, dtype) in wanted.items():
            assert (found[name].shape, found[name].dtype) == (shape, dtype), name
    assert {name: own.role for name, own in request["annotations"].items()} == {
        "garment": "object",
        "reference_garment": "reference_object",
        "correspondence": "correspondence",
        "uv_lookup": None,
        "target": "target",
    }


def test_blocks_do_not_show() -> None:
    # Requests are made 64 at a time; the 65th must equal that sample drawn on its own.
    last = requests(65)[64]
    number = sample_numbers(65, seed=0, split="held_out")[64]
    assert last["id"] == "tryon-0064"
    random = uniforms([number])
    placed = draw_references(draw_garments(random), draw_placements(random[:, PLACEMENT]), random[:, BACKDROP])
    expected = ((placed.image[0] + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(last["reference_image"], expected)


def flat(picture: np.ndarray) -> np.ndarray:
    """Pixels whose 3x3 neighbourhood has one colour, so that antialiasing is no matter."""
    spread = maximum_filter(picture, (3, 3, 1)).astype(int) - minimum_filter(picture, (3, 3, 1))
    return spread.max(axis=-1) <= 2


@pytest.mark.parametrize("swapped", [False, True])
def test_reference_read_at_the_correspondence_is_the_target(swapped: bool) -> None:
    compared = 0
    for request in requests(12, seed=2, swapped=swapped):
        truth = truth_of(request)
        inner = truth["garment"] & flat(truth["target"])
        rows, columns = truth["correspondence"][inner].T
        read = np.stack(
            [
                map_coordinates(request["reference_image"][..., channel].astype(float), [rows, columns], order=1)
                for channel in range(3)
            ],
            axis=-1,
        )
        one_colour = flat(request["reference_image"])[np.rint(rows).astype(int), np.rint(columns).astype(int)]
        error = np.abs(read - truth["target"][inner]).max(axis=-1)[one_colour]
        # Where both pictures are flat, antialiasing aside, they must show the same cloth.
        assert (error <= 2).mean() > 0.99, request["id"]
        compared += error.size
    assert compared > 1000


@pytest.mark.parametrize("swapped", [False, True])
def test_correspondence_lands_on_cloth(swapped: bool) -> None:
    for request in requests(6, seed=3, swapped=swapped):
        truth = truth_of(request)
        cloth = binary_dilation(truth["reference_garment"])
        inner = binary_erosion(truth["garment"])
        rows, columns = np.rint(truth["correspondence"][inner]).astype(int).T
        assert cloth[rows, columns].all()


def test_correspondence_is_a_similarity_of_the_placement() -> None:
    # By hand: scale 1, a quarter turn clockwise on the screen, no mirror, centre (31.5, 31.5), 28 pixels a unit:
    # the hem's middle (u, v) = (0, 1) goes to the left, the right side (1, 0) goes down.
    quarter = place(torch.tensor([torch.pi / 2]), torch.ones(1), torch.ones(1), torch.full((1, 2), 31.5))
    pixels = quarter.to_pixels(torch.tensor([[[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]]))[0]
    torch.testing.assert_close(pixels, torch.tensor([[3.5, 31.5], [31.5, 59.5], [31.5, 31.5]]))
    mirrored = place(torch.zeros(1), -torch.ones(1), torch.full((1,), 0.5), torch.full((1, 2), 20.0))
    pixels = mirrored.to_pixels(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
    torch.testing.assert_close(pixels[0], torch.tensor([[6.0, 20.0], [20.0, 34.0]]))
    torch.testing.assert_close(mirrored.to_points(pixels)[0], torch.tensor([[1.0, 0.0], [0.0, 1.0]]))


def test_trims_tell_left_from_right_in_both_pictures() -> None:
    # The mean place of the red trim in the reference must be where the correspondence sends the red trim of the figure.
    for request in requests(6, seed=6):
        truth = truth_of(request)
        for name in ("left", "right"):
            colour = np.array(TRIMS[name]) * 255
            on_figure = (np.abs(truth["target"] - colour).max(-1) < 4) & truth["garment"]
            on_reference = np.abs(request["reference_image"] - colour).max(-1) < 4
            sent = truth["correspondence"][on_figure].mean(axis=0)
            found = np.argwhere(on_reference).mean(axis=0)
            assert np.linalg.norm(sent - found) < 2.5, (request["id"], name)


@pytest.mark.parametrize("swapped", [False, True])
def test_nan_exactly_outside_the_garment(swapped: bool) -> None:
    for request in requests(4, seed=1, swapped=swapped):
        truth = truth_of(request)
        names = ["correspondence", "uv_lookup"] + ["former_correspondence"] * swapped
        for name in names:
            np.testing.assert_array_equal(np.isfinite(truth[name]).all(-1), truth["garment"], err_msg=name)
            np.testing.assert_array_equal(np.isnan(truth[name]).any(-1), ~truth["garment"], err_msg=name)
        assert not (truth["garment"] & ~request["mask_image"]).any()
        assert (request["body_uv"][~request["mask_image"]] == 0).all()


def test_the_figure_shown_to_the_model_hides_the_garment() -> None:
    for request in requests(4):
        hidden = request["figure_image"][request["mask_image"]]
        assert (hidden == 128).all()
        shown = ~request["mask_image"]
        np.testing.assert_array_equal(request["figure_image"][shown], truth_of(request)["target"][shown])


def test_garments_are_whole_and_inside_the_reference_picture() -> None:
    for request in requests(32, seed=7):
        cloth = truth_of(request)["reference_garment"]
        assert label(cloth)[1] == 1
        assert not np.concatenate([cloth[0], cloth[-1], cloth[:, 0], cloth[:, -1]]).any()
        assert cloth.sum() > 400


def test_swapped_keeps_the_scene_and_changes_the_reference() -> None:
    for one, other in zip(requests(4), requests(4, swapped=True), strict=True):
        for name in ("figure_image", "mask_image", "body_uv"):
            np.testing.assert_array_equal(one[name], other[name])
        assert not np.array_equal(one["reference_image"], other["reference_image"])
        assert one["seed"] == other["seed"]
        assert one["id"] != other["id"]
        both = truth_of(one)["garment"] & truth_of(other)["garment"]
        np.testing.assert_allclose(
            truth_of(other)["former_correspondence"][both], truth_of(one)["correspondence"][both]
        )


def test_body_map_is_right_within_its_jitter() -> None:
    # uv_lookup is the body map through a known placement: (y, x) = 31.5 + 22.4 * (v, u).
    request = requests(1)[0]
    worn = truth_of(request)["garment"]
    expected = 31.5 + 22.4 * request["body_uv"][worn][:, ::-1]
    np.testing.assert_allclose(truth_of(request)["uv_lookup"][worn], expected, atol=1e-3)


def test_placements_cover_every_angle_and_both_hands() -> None:
    placements = draw_placements(torch.rand(2000, 5, generator=torch.Generator().manual_seed(0)))
    determinant = torch.linalg.det(placements.matrix)
    assert 0.45 < (determinant < 0).float().mean() < 0.55
    scale = determinant.abs().sqrt() / 28
    assert scale.min() >= 0.599
    assert scale.max() <= 1.001
    down = placements.matrix[:, :, 1]
    quadrant = torch.atan2(down[:, 1], down[:, 0]).div(torch.pi / 2).floor()
    assert torch.unique(quadrant, return_counts=True)[1].min() > 400


def test_held_out_and_training_samples_never_meet() -> None:
    everything = [
        set(sample_numbers(1000, seed=seed, split=split, first=first))
        for split in ("train", "held_out")
        for seed in (0, 1, 999)
        for first in (0, 999_000)
    ]
    assert len(set().union(*everything)) == sum(map(len, everything))
    assert max(sample_numbers(1_000_000, seed=999, split="train")) < min(sample_numbers(1, seed=0, split="held_out"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": -1}, "n must be at least 0"),
        ({"n": 500_001}, "at most 500000; got 500001"),
        ({"n": 1, "split": "test"}, r"split must be one of \['held_out', 'train'\]; got 'test'"),
        ({"n": 1, "seed": 1000}, "seed must be at least 0 and below 1000; got 1000"),
    ],
)
def test_requests_say_what_is_wrong(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        requests(**arguments)


# ---------------------------------------------------------------------------------------------------- pipeline


def test_loads_by_its_own_class_in_float32() -> None:
    pipeline = TryOnPipeline.from_pretrained(FOLDER)
    for name in ("vae", "unet", "image_encoder"):
        assert getattr(pipeline, name).dtype == torch.float32, name
    assert type(load()) is TryOnPipeline
    assert not load().unet.training


def test_paints_a_picture_near_the_target(pipeline: TryOnPipeline) -> None:
    request = requests(1)[0]
    images = pipeline(**inputs_of(request), num_inference_steps=6, generator=noise(0)[0]).images
    assert [image.size for image in images] == [(64, 64)]
    truth = truth_of(request)
    error = (np.asarray(images[0], float) - truth["target"])[truth["garment"]] / 255
    flat = truth["target"][truth["garment"]] / 255
    # Better than the garment's own mean colour, which a model that never read the reference could not even know.
    assert (error**2).mean() < 0.5 * flat.var(axis=0).mean()


@pytest.mark.parametrize("guidance_scale", [1.0, 2.5])
def test_a_batch_equals_single_calls(pipeline: TryOnPipeline, guidance_scale: float) -> None:
    two = requests(2, seed=8)
    settings = {"num_inference_steps": 2, "guidance_scale": guidance_scale, "output_type": "np"}
    batch = {name: [request[name] for request in two] for name in INPUTS}
    together = pipeline(**batch, **settings, generator=noise(0, 1)).images
    assert together.shape == (2, 64, 64, 3)
    assert pipeline.do_classifier_free_guidance == (guidance_scale > 1)
    for index, request in enumerate(two):
        alone = pipeline(**inputs_of(request), **settings, generator=noise(index)[0]).images[0]
        np.testing.assert_allclose(together[index], alone, atol=1e-4)
    stacked = {name: np.stack(items) for name, items in batch.items()}
    np.testing.assert_array_equal(pipeline(**stacked, **settings, generator=noise(0, 1)).images, together)


def test_guidance_shows_the_denoiser_zeros_first(pipeline: TryOnPipeline) -> None:
    seen: list[torch.Tensor] = []
    hook = pipeline.unet.register_forward_pre_hook(
        lambda _, arguments, named: seen.append(named["encoder_hidden_states"]), with_kwargs=True
    )
    try:
        pipeline(**inputs_of(requests(1)[0]), num_inference_steps=1, guidance_scale=3.0, output_type="latent")
        pipeline(**inputs_of(requests(1)[0]), num_inference_steps=1, output_type="latent")
    finally:
        hook.remove()
    guided, plain = seen
    assert guided.shape == (2, 257, 96)
    assert (guided[0] == 0).all()
    torch.testing.assert_close(guided[1], plain[0])


def test_what_the_mask_hides_cannot_be_seen(pipeline: TryOnPipeline) -> None:
    request = requests(1)[0]
    settings = {"num_inference_steps": 1, "output_type": "latent"}
    hidden = pipeline(**inputs_of(request), **settings, generator=noise(0)[0]).images
    shown = {**inputs_of(request), "figure_image": truth_of(request)["target"]}
    torch.testing.assert_close(pipeline(**shown, **settings, generator=noise(0)[0]).images, hidden)


def test_pictures_may_be_pil(pipeline: TryOnPipeline) -> None:
    from PIL import Image

    request = requests(1)[0]
    settings = {"num_inference_steps": 1, "output_type": "latent"}
    arrays = pipeline(**inputs_of(request), **settings, generator=noise(0)[0]).images
    pil = {name: Image.fromarray(request[name]) for name in INPUTS[:3]} | {"body_uv": request["body_uv"]}
    assert torch.equal(pipeline(**pil, **settings, generator=noise(0)[0]).images, arrays)


def test_callback_sees_each_step_and_may_stop(pipeline: TryOnPipeline) -> None:
    steps: list[int] = []

    def stop_after_two(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        steps.append(step)
        assert tensors["latents"].shape == (1, 8, 16, 16)
        assert tensors["image_embeddings"].shape == (1, 257, 96)
        pipe._interrupt = step == 1
        return tensors

    pipeline(
        **inputs_of(requests(1)[0]),
        num_inference_steps=4,
        output_type="latent",
        callback_on_step_end=stop_after_two,
        callback_on_step_end_tensor_inputs=["latents", "image_embeddings"],
    )
    assert steps == [0, 1]
    assert pipeline.num_timesteps == 4


def test_cross_attention_runs_through_the_stock_processor(pipeline: TryOnPipeline) -> None:
    from diffusers.models.attention_processor import AttnProcessor2_0

    assert {type(processor) for processor in pipeline.unet.attn_processors.values()} == {AttnProcessor2_0}


def test_save_and_load_give_the_same_picture(pipeline: TryOnPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path)
    again = TryOnPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    settings = {**inputs_of(requests(1)[0]), "num_inference_steps": 2, "output_type": "np"}
    for name, module in pipeline.components.items():
        if isinstance(module, torch.nn.Module):
            saved, loaded = module.state_dict(), getattr(again, name).state_dict()
            assert saved.keys() == loaded.keys()
            assert all(torch.equal(saved[key], loaded[key]) for key in saved)
    one, other = (pipe(**settings, generator=noise(3)[0]).images for pipe in (pipeline, again))
    # The same numbers at other addresses may go another way through a kernel.
    np.testing.assert_allclose(one, other, atol=2e-6)


def test_untrained_keeps_the_autoencoder_and_is_seeded(pipeline: TryOnPipeline) -> None:
    before = torch.random.get_rng_state()
    one, same, other = (load(trained=False, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)

    def weights(pipe: TryOnPipeline, part: str) -> torch.Tensor:
        return torch.nn.utils.parameters_to_vector(getattr(pipe, part).parameters())

    for part in ("unet", "image_encoder"):
        assert torch.equal(weights(one, part), weights(same, part))
        assert not torch.equal(weights(one, part), weights(other, part))
        assert weights(one, part).shape == weights(pipeline, part).shape
        assert not torch.equal(weights(one, part), weights(pipeline, part))
    assert torch.equal(weights(one, "vae"), weights(pipeline, "vae"))


GOOD = np.zeros((64, 64, 3), np.uint8)
BAD_INPUTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"reference_image": np.zeros((32, 32, 3), np.uint8)}, ValueError, "reference_image must be RGB of 64x64 pixels"),
    ({"reference_image": GOOD.astype(np.float32)}, TypeError, "reference_image as an array must be uint8 .* float32"),
    ({"reference_image": "shirt.png"}, TypeError, "reference_image must be a PIL image or a numpy array"),
    ({"figure_image": np.zeros((64, 64), np.uint8)}, ValueError, r"figure_image must be RGB .* got \(64, 64\)"),
    ({"mask_image": np.zeros((64, 32), bool)}, ValueError, r"mask_image must have 64x64 pixels.* got \(64, 32\)"),
    ({"mask_image": np.zeros((64, 64))}, TypeError, "mask_image as an array must be bool, or uint8 .* float64"),
    ({"mask_image": None}, TypeError, "mask_image must be a PIL image or a numpy array .* NoneType"),
    ({"body_uv": np.zeros((2, 64, 64))}, ValueError, r"body_uv must be \(u, v\) at each pixel, \(64, 64, 2\)"),
    ({"body_uv": np.zeros((64, 64, 2), int)}, TypeError, "body_uv must be floating point; got int64"),
    ({"body_uv": [[0.0]]}, TypeError, "body_uv must be a numpy array"),
    ({"body_uv": np.full((64, 64, 2), np.nan)}, ValueError, "body_uv must be finite"),
    ({"reference_image": [GOOD, GOOD]}, ValueError, "as many of each input; got .*'reference_image': 2"),
    ({"reference_image": []}, ValueError, "reference_image is an empty list"),
    ({"num_inference_steps": 0}, ValueError, "num_inference_steps must be a positive integer; got 0"),
    ({"guidance_scale": -1.0}, ValueError, "guidance_scale must not be negative; got -1.0"),
    ({"output_type": "jpeg"}, ValueError, "output_type must be one of .* got 'jpeg'"),
    ({"generator": noise(0, 1)}, ValueError, "one for each of the 1 pictures; got 2"),
    ({"latents": torch.zeros(1, 4, 16, 16)}, ValueError, r"latents must have the shape \(1, 8, 16, 16\)"),
    ({"callback_on_step_end_tensor_inputs": ["noise"]}, ValueError, r"has \['noise'\]; accepted are \['latents'"),
]


@pytest.mark.parametrize(("change", "kind", "message"), BAD_INPUTS)
def test_wrong_inputs_are_named(
    pipeline: TryOnPipeline, change: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        pipeline(**(inputs_of(requests(1)[0]) | {"num_inference_steps": 1} | change))


def test_the_shipped_folder_is_small_and_safe() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAXIMUM_BYTES
    assert {path.suffix for path in files} == {".json", ".safetensors"}


# ---------------------------------------------------------------------------------------------------- training


def weights(folder: Path) -> torch.Tensor:
    pipeline = TryOnPipeline.from_pretrained(folder)
    parts = (pipeline.vae, pipeline.unet, pipeline.image_encoder)
    return torch.cat([torch.nn.utils.parameters_to_vector(part.parameters()) for part in parts])


def test_each_stage_trains_and_a_killed_one_goes_on(tmp_path: Path) -> None:
    plan = Plan(autoencoder=2, warm_up=2, denoiser=2, decoder=2, scenes=2, batch=2)
    whole = weights(train(tmp_path, plan=plan, device="cpu"))
    log = (tmp_path / "training.log").read_text()
    for stage in ("autoencoder", "warm-up", "denoiser", "decoder"):
        assert f"{stage}: step 2 of 2" in log, stage

    # A kill between the denoiser's end and the decoder's first checkpoint leaves just this behind.
    (tmp_path / "checkpoints" / "decoder.pt").unlink()
    again = weights(train(tmp_path, plan=plan, device="cpu"))
    log = (tmp_path / "training.log").read_text()
    for stage in ("autoencoder", "warm-up", "denoiser"):
        assert f"{stage}: continued at step 2 of 2" in log, stage
    assert "decoder: continued" not in log
    assert torch.equal(whole, again)


def test_a_resumed_stage_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    def run(folder: Path, stop_at: int | None) -> torch.Tensor:
        folder.mkdir(exist_ok=True)
        workshop = Workshop(folder, 0, torch.device("cpu"), checkpoint_every=0.0)
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 1)
        optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)

        def step(index: int) -> dict[str, torch.Tensor]:
            if index == stop_at:
                raise KeyboardInterrupt
            loss = model(torch.randn(4, 3, generator=workshop.generator("toy", index))).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            return {"loss": loss}

        run_stage(workshop, "toy", 6, {"model": model, "optimiser": optimiser}, step)
        return model.weight.detach().clone()

    straight = run(tmp_path / "straight", None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", 3)
    assert torch.equal(run(tmp_path / "stopped", None), straight)
    log = (tmp_path / "stopped" / "training.log").read_text()
    assert re.search(r"toy: continued at step 3 of 6", log)
    assert not list(tmp_path.rglob("*.wip"))
