"""The shapes world: its scenes, its ground truth, its requests, its pipeline, and its training script."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attlas.recorder.demo import shapes
from attlas.recorder.demo.shapes.prompts import HELD_OUT_START, TRAINING_SCENES
from attlas.recorder.demo.shapes.scenes import GREYS, SIZE, Scene, captions, draw
from attlas.recorder.demo.shapes.truth import components, recognise
from attlas.recorder.demo.shapes.words import COLOURS, NOUNS, Mention, caption, mentions

# diffusers and torch load their own deprecated parts; what we call must be silent, what they call must not fail us.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

FOLDER = Path(shapes.__file__).parent
PLACEMENTS: tuple[Any, ...] = ("slots", "free")


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw(index, placement) for index in range(60) for placement in PLACEMENTS]


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return shapes.load()


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


def picture(*objects: tuple[str, str, int, int]) -> np.ndarray:
    """Axis-aligned squares of palette colours on grey: (colour, unused name, top, left), side 12."""
    image = np.full((SIZE, SIZE, 3), 128, dtype=np.uint8)
    for colour, _, top, left in objects:
        image[top : top + 12, left : left + 12] = COLOURS[colour]
    return image


# --- scenes


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_scene_follows_from_its_seed(placement: Any) -> None:
    first, again, other = draw(7, placement), draw(7, placement), draw(8, placement)
    assert np.array_equal(first.image, again.image)
    assert first.objects == again.objects
    assert not np.array_equal(first.image, other.image)


def test_masks_are_the_drawn_objects(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert list(scene.masks) == [item.noun for item in scene.objects]
        nowhere = ~np.any(list(scene.masks.values()), axis=0)
        for item in scene.objects:
            mask = scene.masks[item.noun]
            # Away from the antialiased rim the palette's exact colour, and no other pixel has it.
            exact = (scene.image == COLOURS[str(item.colour)]).all(axis=-1)
            assert (exact <= mask).all()
            assert exact.sum() >= 0.55 * mask.sum()
        background = scene.image[nowhere]
        assert np.isin(np.median(background, axis=0), GREYS).all()


def test_areas_of_the_shapes_are_those_of_geometry(scenes: list[Scene]) -> None:
    # With the circumradius r in 13 to 14.5: disc pi r^2; triangle 3 sqrt(3) / 4 r^2;
    # ring of width 4: pi (r^2 - (r - 4)^2); cross of arm 0.36: (2 * 2 * 0.72 - 0.72^2) r^2.
    area = {
        "disc": lambda r: np.pi * r**2,
        "triangle": lambda r: 3 * np.sqrt(3) / 4 * r**2,
        "ring": lambda r: np.pi * (r**2 - (r - 4) ** 2),
        "cross": lambda r: (4 * 0.72 - 0.72**2) * r**2,
    }
    for scene in scenes:
        for noun, mask in scene.masks.items():
            # Straight edges fall on whole pixels: up to one in 26 is lost or won.
            assert 0.95 * area[noun](13.0) <= mask.sum() <= 1.05 * area[noun](14.5)


def test_objects_of_a_pair_differ_and_do_not_touch(scenes: list[Scene]) -> None:
    pairs = [scene for scene in scenes if len(scene.objects) == 2]
    assert 0.65 < len(pairs) / len(scenes) < 0.95
    for scene in pairs:
        first, second = scene.objects
        assert first.noun != second.noun
        assert first.colour != second.colour
        assert not (scene.masks[first.noun] & scene.masks[second.noun]).any()


# --- words


def test_captions_say_the_scene_in_any_order(scenes: list[Scene]) -> None:
    rng = np.random.default_rng(0)
    scene = next(scene for scene in scenes if len(scene.objects) == 2)
    said = set(itertools.islice(captions(scene, rng), 1000))
    colours = {item.noun: item.colour for item in scene.objects}
    # Two orders, each object with or without its colour.
    assert len(said) == 8
    for text in said:
        for item in mentions(text):
            assert item.colour in (None, colours[item.noun])


def test_a_caption_reads_back() -> None:
    objects = [Mention("disc", "red"), Mention("cross", None)]
    assert caption(objects) == "a red disc and a cross"
    assert mentions(caption(objects)) == objects


@pytest.mark.parametrize("prompt", ["", "a red house", "a disc and a disc", "a disc, a ring and a cross"])
def test_a_prompt_without_one_or_two_different_shapes_is_refused(prompt: str) -> None:
    with pytest.raises(ValueError, match="must name one or two different shapes of disc, triangle, ring, cross"):
        mentions(prompt)


def test_each_word_is_one_token_and_the_longest_caption_fits() -> None:
    from attlas.recorder.demo.shapes.vocabulary import MAX_TOKENS, build_tokenizer

    tokenizer = build_tokenizer()
    objects = itertools.permutations(itertools.product(COLOURS, NOUNS), 2)
    texts = [f"a {first[0]} {first[1]} and a {second[0]} {second[1]}" for first, second in objects]
    for text, ids in zip(texts, tokenizer(texts).input_ids, strict=True):
        words = ["<|startoftext|>", *(f"{word}</w>" for word in text.split()), "<|endoftext|>"]
        assert tokenizer.convert_ids_to_tokens(ids) == words
        assert len(ids) <= MAX_TOKENS
    # A strange word falls into letters; none is unknown.
    assert tokenizer.unk_token_id not in tokenizer("qwxyz").input_ids[1:-1]


# --- truth


def test_the_truth_of_a_drawn_scene_is_found(scenes: list[Scene]) -> None:
    right = []
    for scene in scenes:
        found = shapes.annotate({"prompt": caption(scene.objects)}, scene.image)
        for item in scene.objects:
            assert overlap(found[item.noun], scene.masks[item.noun]) > 0.9
            right.append(recognise(found[item.noun]) == item.noun)
        assert np.nansum(found["colour_present"]) == len(scene.objects)
    assert np.mean(right) >= 0.97


def test_the_truth_survives_blur_and_noise(scenes: list[Scene]) -> None:
    from scipy import ndimage

    rng = np.random.default_rng(0)
    right = []
    for scene in scenes:
        soft = ndimage.gaussian_filter(scene.image.astype(float), (0.8, 0.8, 0)) + rng.normal(0, 8, scene.image.shape)
        found = shapes.annotate({"prompt": caption(scene.objects)}, soft.clip(0, 255).astype(np.uint8))
        right += [found["shape_correct"][place] for place in range(len(scene.objects))]
    assert np.mean(right) >= 0.97


def test_truth_has_its_types_and_padding() -> None:
    scene = next(scene for scene in map(draw, range(50)) if len(scene.objects) == 1)
    found = shapes.annotate({"prompt": caption(scene.objects)}, scene.image)
    noun = scene.objects[0].noun
    assert set(found) == {noun, "colour_present", "shape_correct"}
    assert found[noun].dtype == np.bool_
    assert found[noun].shape == (SIZE, SIZE)
    for name in ("colour_present", "shape_correct"):
        assert found[name].dtype == np.float32
        assert found[name][0] == 1
        assert np.isnan(found[name][1])


def test_an_absent_object_has_an_empty_mask_and_zeros() -> None:
    found = shapes.annotate({"prompt": "a red disc and a blue cross"}, picture(("red", "square", 10, 10)))
    assert found["disc"].sum() == 144
    assert not found["cross"].any()
    assert found["colour_present"].tolist() == [1, 0]
    assert found["shape_correct"][1] == 0


def test_the_largest_region_of_the_colour_counts() -> None:
    image = picture(("red", "square", 5, 5), ("red", "square", 40, 40))
    image[40:52, 52:54] = COLOURS["red"]
    assert [int(region.sum()) for region in components(image, "red")] == [168, 144]
    assert shapes.annotate({"prompt": "a red ring"}, image)["ring"][45, 45]


def test_two_objects_of_one_colour_are_told_apart_by_shape() -> None:
    scene = next(scene for scene in map(draw, range(50)) if len(scene.objects) == 2)
    first, second = scene.objects
    image = scene.image.copy()
    image[scene.masks[second.noun]] = COLOURS[str(first.colour)]
    for order in itertools.permutations((first.noun, second.noun)):
        found = shapes.annotate({"prompt": caption([Mention(noun, first.colour) for noun in order])}, image)
        for noun in order:
            assert overlap(found[noun], scene.masks[noun]) > 0.8


def test_an_object_without_a_colour_is_found_by_what_is_left() -> None:
    scene = next(scene for scene in map(draw, range(50)) if len(scene.objects) == 2)
    first, second = scene.objects
    found = shapes.annotate({"prompt": caption([Mention(first.noun, None), second])}, scene.image)
    assert overlap(found[first.noun], scene.masks[first.noun]) > 0.9


def test_a_float_picture_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"must be RGB, uint8 .*got float64 \(64, 64, 3\).*astype"):
        shapes.annotate({"prompt": "a disc"}, np.zeros((64, 64, 3)))


# --- requests


def test_requests_are_deterministic_and_prefixes_agree() -> None:
    many = shapes.requests(40)
    assert many == shapes.requests(40)
    assert shapes.requests(7) == many[:7]
    assert [entry["prompt"] for entry in shapes.requests(40, seed=1)] != [entry["prompt"] for entry in many]
    assert len({entry["id"] for entry in many}) == 40
    assert many[7]["id"] == "shapes-0007"
    assert {(entry["num_inference_steps"], entry["guidance_scale"]) for entry in many} == {(20, 3.0)}


def test_held_out_seeds_were_never_trained_on() -> None:
    held_out = {entry["seed"] for seed in range(5) for entry in shapes.requests(100, seed=seed)}
    assert len(held_out) == 500
    assert min(held_out) >= HELD_OUT_START > TRAINING_SCENES
    assert all(entry["seed"] < TRAINING_SCENES for entry in shapes.requests(50, seed=5990, split="train"))


def test_each_request_names_colour_and_shape_of_its_scene() -> None:
    for entry in shapes.requests(40):
        assert tuple(mentions(entry["prompt"])) == draw(entry["seed"]).objects


def test_requests_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="split must be 'held_out' or 'train', got 'test'"):
        shapes.requests(3, split="test")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n must be 0 to 6000"):
        shapes.requests(6001, split="train")
    with pytest.raises(ValueError, match="seed must be 0 to 9999"):
        shapes.requests(1, seed=-1)


# --- pipeline


def test_the_pipeline_is_small_and_its_papers_lie_beside_it() -> None:
    files = [path for path in (FOLDER / "pipeline").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 9_500_000
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt"}
    assert (FOLDER / "MODEL_CARD.md").is_file()
    entries = [json.loads(line) for line in (FOLDER / "training.log").read_text().splitlines()]
    assert {entry["stage"] for entry in entries} == {"autoencoder", "denoiser"}


def test_the_pipeline_draws_what_is_asked(pipeline: Any) -> None:
    import torch

    right = []
    for entry in shapes.requests(2):
        call = {key: value for key, value in entry.items() if key not in ("id", "seed")}
        image = pipeline(**call, generator=torch.Generator().manual_seed(entry["seed"])).images[0]
        assert image.size == (SIZE, SIZE)
        right.append(np.nanmean(shapes.annotate(entry, image)["colour_present"]))
    assert np.mean(right) > 0.5


def test_the_untrained_twin_differs_in_denoiser_and_words_only(pipeline: Any) -> None:
    import torch

    before = torch.random.get_rng_state()
    twin, again, other = (shapes.load(trained=False, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)

    def weights(module: Any) -> Any:
        return torch.nn.utils.parameters_to_vector(module.parameters())

    assert torch.equal(weights(twin.vae), weights(pipeline.vae))
    for part in ("unet", "text_encoder"):
        mine = weights(getattr(twin, part))
        assert mine.dtype == torch.float32
        assert mine.shape == weights(getattr(pipeline, part)).shape
        assert torch.equal(mine, weights(getattr(again, part)))
        assert not torch.equal(mine, weights(getattr(other, part)))
        assert not torch.equal(mine, weights(getattr(pipeline, part)))


def test_the_folder_holds_what_the_code_builds(pipeline: Any) -> None:
    from attlas.recorder.demo.shapes.architecture import build_scheduler
    from attlas.recorder.demo.shapes.vocabulary import build_tokenizer

    text = "a red disc and an odd cross"
    assert pipeline.tokenizer(text).input_ids == build_tokenizer()(text).input_ids
    stored, built = ({**scheduler.config} for scheduler in (pipeline.scheduler, build_scheduler()))
    # Underscored entries are diffusers' own notes on how the object came to be.
    public = {key for key in stored | built if not key.startswith("_")}
    assert {key: stored[key] for key in public} == {key: built[key] for key in public}


# --- training


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    import torch
    from diffusers import StableDiffusionPipeline

    from attlas.recorder.demo.shapes.training import Recipe, main, train

    recipe = Recipe(autoencoder_steps=2, denoiser_steps=2, scenes=8)
    assert train(tmp_path / "whole", recipe)

    def command(denoiser_steps: int = 2) -> list[str]:
        out = str(tmp_path / "parts")
        return ["--out", out, "--autoencoder-steps=2", f"--denoiser-steps={denoiser_steps}", "--scenes=8"]

    main([*command(), "--minutes=0"])
    assert (tmp_path / "parts" / "autoencoder.pt").exists()
    assert not (tmp_path / "parts" / "pipeline").exists()
    main(command())

    parts, whole = (
        StableDiffusionPipeline.from_pretrained(tmp_path / name / "pipeline") for name in ("parts", "whole")
    )
    for part in ("vae", "text_encoder", "unet"):
        mine, theirs = (getattr(each, part).state_dict() for each in (parts, whole))
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    entries = [json.loads(line) for line in (tmp_path / "parts" / "training.log").read_text().splitlines()]
    assert any("noun_swap" in entry for entry in entries)
    with pytest.raises(ValueError, match="choose another folder"):
        main(command(denoiser_steps=3))
