"""The embedded data set: geometry, captions and the pairs held out of training."""

import numpy as np
import pytest

from micro_diffusion.data.sources.shape_scenes import (
    BACKGROUNDS,
    COLOURS,
    GAP,
    HELD_OUT,
    OUTLINES,
    RELATIONS,
    SIZES,
    Description,
    ObjectDescription,
    Placement,
    Scene,
    caption,
    parse_caption,
    place,
    render,
    scene,
    short_caption,
)
from micro_diffusion.data.sources.shapes import Shapes

SCENES = [scene(3, index) for index in range(400)]


def polygon_area(outline: np.ndarray) -> float:
    x, y = outline.T
    return abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2


def test_a_scene_follows_from_seed_and_index():
    assert scene(3, 7) == SCENES[7]
    assert scene(4, 7) != SCENES[7]
    assert len({caption(item) for item in SCENES}) > 300


def test_captions_are_letter_for_letter():
    red, blue = ObjectDescription("large", "red", "circle"), ObjectDescription("small", "blue", "star")
    assert caption(Description((red,), None, "white")) == "a large red circle on a white background"
    expected = "a large red circle to the left of a small blue star on a gray background"
    assert caption(Description((red, blue), "to the left of", "gray")) == expected


def test_captions_parse_back():
    for item in SCENES:
        assert parse_caption(caption(item)) == item.description


@pytest.mark.parametrize("text", ["", "a red circle", "A large red circle on a white background", "a cat on a mat"])
def test_other_captions_are_refused(text):
    with pytest.raises(ValueError, match="is no caption of the shapes data set"):
        parse_caption(text)


def test_held_out_pairs_never_train_and_can_be_drawn_alone():
    pairs = {(item.colour, item.shape) for number in range(3000) for item in scene(0, number).description.objects}
    assert len(pairs) == 28
    assert not pairs & HELD_OUT
    only = {(o.colour, o.shape) for number in range(100) for o in scene(0, number, held_out="only").description.objects}
    assert only == HELD_OUT
    everything = {
        (o.colour, o.shape) for number in range(1500) for o in scene(0, number, held_out="include").description.objects
    }
    assert len(everything) == 32


@pytest.mark.parametrize("pairs", [0.0, 0.25, 1.0])
def test_pairs_come_in_the_stated_proportion(pairs):
    two = sum(len(scene(1, index, pairs=pairs).placements) == 2 for index in range(400)) / 400
    assert two == pytest.approx(pairs, abs=0.07 if 0 < pairs < 1 else 0)


def test_objects_stay_inside_and_apart_and_hold_their_relation():
    for item in SCENES:
        outlines = item.outlines()
        for outline in outlines:
            assert outline.min() > 0
            assert outline.max() < 1
        for thing, placement in zip(item.description.objects, item.placements, strict=True):
            assert placement.radius == pytest.approx(SIZES[thing.size], rel=0.0601)
        if len(outlines) == 2:
            first, second = item.placements
            assert item.description.objects[0].colour != item.description.objects[1].colour
            assert np.linalg.norm(outlines[0][:, None] - outlines[1], axis=-1).min() >= GAP
            x, y = RELATIONS[item.description.relation]
            along = (first.x - second.x) * x + (first.y - second.y) * y
            across = abs((first.x - second.x) * y) + abs((first.y - second.y) * x)
            assert along >= 1.2 * across


@pytest.mark.parametrize("relation", RELATIONS)
def test_the_hardest_pair_finds_a_place(relation):
    stars = (ObjectDescription("large", "cyan", "star"), ObjectDescription("large", "pink", "star"))
    placed = place(Description(stars, relation, "black"), np.random.default_rng(0))
    assert len(placed.placements) == 2


@pytest.mark.parametrize("shape", OUTLINES)
@pytest.mark.parametrize("resolution", [32, 64, 200])
def test_a_render_covers_the_area_of_its_outline(shape, resolution):
    description = Description((ObjectDescription("large", "red", shape),), None, "black")
    item = Scene(description, (Placement(0.45, 0.55, 0.21),))
    background, colour = np.array(BACKGROUNDS["black"]), np.array(COLOURS["red"])
    coverage = (render(item, resolution)[..., 0] - float(background[0])) / (colour[0] - background[0])
    assert coverage.mean() == pytest.approx(polygon_area(item.outlines()[0]), rel=0.04)
    cells = (np.arange(resolution) + 0.5) / resolution
    centre = np.array([coverage.sum(0) @ cells, coverage.sum(1) @ cells]) / coverage.sum()
    assert centre == pytest.approx([0.45, 0.55], abs=0.003)
    assert ((coverage > 0.1) & (coverage < 0.9)).any(), "the edge is not antialiased"


def test_shapes_have_the_stated_measures():
    assert np.linalg.norm(OUTLINES["circle"], axis=1) == pytest.approx(0.95)
    assert np.abs(OUTLINES["square"]).max(axis=1) == pytest.approx(0.84)
    reach = {shape: np.linalg.norm(OUTLINES[shape], axis=1) for shape in ("triangle", "star")}
    assert reach["triangle"].max() == pytest.approx(1.2)
    assert reach["star"].max() == pytest.approx(1.25)
    assert reach["star"].min() == pytest.approx(1.25 * 0.45)
    for shape in ("triangle", "star"):  # one corner up
        assert OUTLINES[shape][0] == pytest.approx([0, -reach[shape].max()])


def test_renders_agree_between_resolutions():
    for item in SCENES[:20]:
        fine = render(item, 128).reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
        assert np.abs(fine - render(item, 64)).mean() < 1.0


def test_bad_arguments_say_what_to_set():
    with pytest.raises(ValueError, match=r"pairs is 1\.5; set it"):
        scene(0, 0, pairs=1.5)
    with pytest.raises(ValueError, match="held_out is 'no'; set it"):
        scene(0, 0, held_out="no")
    with pytest.raises(ValueError, match="resolution is 0; set it"):
        render(SCENES[0], 0)


def test_a_short_caption_is_a_second_one_of_the_same_image():
    how = {"seed": 3, "count": 6, "resolution": 16}
    plain, both = (list(source.read(range(6))) for source in (Shapes(**how), Shapes(**how, short_captions=True)))
    for one, other, drawn in zip(plain, both, SCENES, strict=False):
        assert (other.caption, other.key) == (one.caption, one.key) and other.image.tobytes() == one.image.tobytes()
        assert one.further_captions == () and other.further_captions == (short_caption(drawn),)
    red, blue = ObjectDescription("large", "red", "circle"), ObjectDescription("small", "blue", "star")
    assert short_caption(Scene(Description((red,), None, "white"), ())) == "a red circle"
    assert short_caption(Scene(Description((red, blue), "above", "white"), ())) == "a red circle and a blue star"
