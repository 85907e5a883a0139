"""The judge of composition: right on real renders, never lenient on wrong ones."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from micro_diffusion.data.sources.shape_scenes import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT,
    OUTLINES,
    Description,
    ObjectDescription,
    Placement,
    Scene,
    caption,
    parse_caption,
    place,
    render,
    scene,
)
from micro_diffusion.evaluation.composition import (
    CompositionByKind,
    compare,
    composition_captions,
    composition_prompts,
    judge,
    kind_of,
    score,
)
from micro_diffusion.evaluation.recognition import recognise

SCENES = [scene(2026, index, held_out="include") for index in range(250)]
CIRCLE = "a large red circle on a white background"


def draw(*objects: tuple[str, str, str, float, float], background: str = "white", resolution: int = 64) -> np.ndarray:
    """Objects given as (size, colour, shape, x, y), wherever they are put."""
    radius = {"small": 0.13, "large": 0.21}
    described = tuple(ObjectDescription(*item[:3]) for item in objects)
    placements = tuple(Placement(item[3], item[4], radius[item[0]]) for item in objects)
    return render(Scene(Description(described, None, background), placements), resolution)


def degrade(image: np.ndarray, blur: float, noise: float, seed: int) -> np.ndarray:
    """Blur (pixels), noise and colour cast (8-bit levels), as a decoder might add."""
    rng = np.random.default_rng(seed)
    soft = ndimage.gaussian_filter(image.astype(float), (blur, blur, 0))
    soft += rng.normal(0, noise, soft.shape) + rng.normal(0, noise, 3)
    return soft.clip(0, 255).round().astype(np.uint8)


@pytest.mark.parametrize(
    ("resolution", "blur", "noise"), [(64, 0, 0), (64, 0.8, 6), (32, 0, 0), (32, 0.5, 4), (160, 1, 6)]
)
def test_real_renders_are_right_and_shuffled_captions_wrong(resolution, blur, noise):
    seen = [recognise(degrade(render(item, resolution), blur, noise, seed)) for seed, item in enumerate(SCENES)]
    right = [compare(*pair).correct for pair in zip(seen, (item.description for item in SCENES), strict=True)]
    assert np.mean(right) >= 0.98
    shuffled = np.random.default_rng(0).permutation(len(SCENES))
    chance = [compare(seen[i], SCENES[j].description).correct for i, j in enumerate(shuffled)]
    assert np.mean(chance) <= 0.02


def test_recognition_finds_places_and_radii():
    for item in SCENES[:50]:
        objects = {seen.colour: seen for seen in recognise(render(item, 64)).objects}
        for named, placement in zip(item.description.objects, item.placements, strict=True):
            seen = objects[named.colour]
            assert (seen.x, seen.y) == pytest.approx((placement.x, placement.y), abs=0.008)
            assert seen.radius == pytest.approx(placement.radius, rel=0.04)


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("colour", COLOURS)
def test_every_colour_and_shape_is_told_apart(background, colour):
    for shape in OUTLINES:
        image = draw(("small", colour, shape, 0.4, 0.6), background=background)
        verdicts = [judge(image, f"a small {colour} {said} on a {background} background") for said in OUTLINES]
        assert [verdict.shape for verdict in verdicts] == [said == shape for said in OUTLINES]
        assert all(verdict.count and verdict.colour and verdict.size and verdict.background for verdict in verdicts)


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        (CIRCLE, set()),
        ("a large red square on a white background", {"shape"}),
        ("a small red circle on a white background", {"size"}),
        ("a large orange circle on a white background", {"colour"}),
        ("a large red circle on a gray background", {"background"}),
    ],
)
def test_each_statement_is_judged_by_itself(said, wrong):
    verdict = judge(draw(("large", "red", "circle", 0.5, 0.5)), said)
    assert {name for name, holds in verdict._asdict().items() if not holds} == wrong
    assert verdict.correct == (not wrong)


def test_two_objects_for_one_are_refused():
    one = ("large", "red", "circle", 0.3, 0.3)
    assert judge(draw(one), CIRCLE).correct
    for extra in ("red", "blue", "yellow"):
        verdict = judge(draw(one, ("small", extra, "star", 0.7, 0.7)), CIRCLE)
        assert not verdict.count
        assert verdict.shape


def test_a_missing_object_is_refused():
    said = "a large red circle above a small blue star on a white background"
    for present in (("large", "red", "circle", 0.5, 0.3), ("small", "blue", "star", 0.5, 0.8)):
        verdict = judge(draw(present), said)
        assert not verdict.count
        assert not verdict.colour
        assert not verdict.relation
    assert not judge(draw(), said).correct
    assert not judge(draw(), CIRCLE).correct


def test_a_swapped_relation_is_refused():
    image = draw(("large", "red", "circle", 0.3, 0.4), ("small", "blue", "star", 0.75, 0.6))
    held = {
        relation: judge(image, f"a large red circle {relation} a small blue star on a white background")
        for relation in ("to the left of", "to the right of", "above", "below")
    }
    assert [relation for relation, verdict in held.items() if verdict.relation] == ["to the left of"]
    assert all(verdict.count and verdict.shape and verdict.size for verdict in held.values())
    exchanged = judge(image, "a small blue star to the right of a large red circle on a white background")
    assert exchanged.correct


def test_attributes_given_to_the_other_object_are_refused():
    image = draw(("large", "red", "circle", 0.3, 0.4), ("small", "blue", "star", 0.75, 0.6))
    verdict = judge(image, "a large blue circle to the left of a small red star on a white background")
    assert not verdict.correct
    verdict = judge(image, "a small red circle to the left of a large blue star on a white background")
    assert not verdict.size


def test_merged_blobs_are_refused():
    same = draw(("small", "red", "circle", 0.42, 0.5), ("small", "red", "circle", 0.58, 0.5))
    assert not judge(same, CIRCLE).correct
    two_colours = draw(("large", "red", "circle", 0.42, 0.5), ("large", "orange", "circle", 0.58, 0.5))
    assert not judge(two_colours, CIRCLE).correct
    assert not judge(two_colours, "a large orange circle on a white background").correct
    said = "a large red circle to the left of a large orange circle on a white background"
    assert not judge(two_colours, said).correct


def test_shapeless_and_turned_objects_are_refused():
    y, x = (np.mgrid[:64, :64] + 0.5) / 64 - 0.5
    for inside in (np.hypot(x / 1.25, y * 1.25) < 0.2, abs(x) + abs(y) < 0.25, np.hypot(x, y) % 0.2 > 0.12):
        image = np.where(inside[..., None], COLOURS["red"], BACKGROUNDS["white"]).astype(np.uint8)
        for shape in OUTLINES:
            assert not judge(image, f"a large red {shape} on a white background").correct
    for shape in ("triangle", "star"):
        upside_down = draw(("large", "red", shape, 0.5, 0.5))[::-1]
        assert not judge(np.ascontiguousarray(upside_down), f"a large red {shape} on a white background").correct


def test_spots_of_other_colours_are_refused():
    image = draw(("large", "red", "circle", 0.5, 0.5)).copy()
    for spot, colour in ((slice(4, 9), "blue"), (slice(29, 34), "yellow"), (slice(54, 60), "pink")):
        spotted = image.copy()
        spotted[spot, spot] = COLOURS[colour]
        assert judge(image, CIRCLE).correct
        assert not judge(spotted, CIRCLE).count


def test_a_gradient_for_a_background_and_noise_are_refused():
    image = draw(("large", "red", "circle", 0.5, 0.5)).astype(float)
    shade = np.linspace(0, -200, 64)[:, None, None] * (np.linalg.norm(image - 245, axis=-1, keepdims=True) < 30)
    assert not judge((image + shade).clip(0, 255).astype(np.uint8), CIRCLE).correct
    rng = np.random.default_rng(0)
    for item in SCENES[:40]:
        noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        assert not judge(noise, caption(item)).correct
        assert not judge(np.full((64, 64, 3), 128, np.uint8), caption(item)).correct


@pytest.mark.parametrize("kind", ["single", "two", "held_out"])
def test_prompts_are_of_their_kind_and_can_be_drawn(kind):
    prompts = composition_prompts(kind=kind, count=40, seed=5)
    assert prompts == composition_prompts(kind=kind, count=50, seed=5)[:40]
    assert prompts != composition_prompts(kind=kind, count=40, seed=6)
    described = [parse_caption(text) for text in prompts]
    assert {len(item.objects) for item in described} == {2 if kind == "two" else 1}
    held_out = [(named.colour, named.shape) in HELD_OUT for item in described for named in item.objects]
    assert all(held_out) if kind == "held_out" else not any(held_out)
    images = [render(place(item, np.random.default_rng(0)), 64) for item in described]
    assert score(images, prompts)["correct"] >= 0.98


def test_bad_arguments_say_what_to_set():
    with pytest.raises(ValueError, match="kind is 'three'; set it"):
        composition_prompts(kind="three", count=1, seed=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give square"):
        recognise(np.zeros((32, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="give square"):
        recognise(np.zeros((64, 64, 3), np.float32))
    with pytest.raises(ValueError, match="1 images and 2 captions"):
        score([draw()], [CIRCLE, CIRCLE])


def test_scores_are_told_by_kind_of_prompt():
    """True renders of all captions, but for those of the first kind, which all show the same."""
    metrics, captions = CompositionByKind(), composition_captions(count=4, seed=5)
    kinds = {"single": {"pairs": 0.0, "held_out": "exclude"}, "two": {"pairs": 1.0, "held_out": "exclude"}}
    scenes = [scene(5, index, **options) for options in kinds.values() for index in range(4)]
    assert [caption(made) for made in scenes] == captions[:8]
    assert [kind_of(text) for text in captions] == ["single"] * 4 + ["two"] * 4 + ["held_out"] * 4
    images = np.stack([render(scenes[4 if i < 4 else i], 64) for i in range(8)])
    assert metrics(torch.from_numpy(images).permute(0, 3, 1, 2), captions[:8]) == {"single": 0.0, "two": 1.0}
