"""Squares and other shapes: which images they take, their sizes, and where they lie."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from micro_diffusion.data.image.crops import AspectRatioBucket, CentreSquare, RandomSquare
from micro_diffusion.data.image.transforms import crop

RATIOS = ("1:1", "4:3", "3:4", "16:9", "9:16")


def bucket(ratio: str, **options) -> AspectRatioBucket:
    return AspectRatioBucket(ratio=ratio, **{"among": RATIOS, **options})


@pytest.mark.parametrize("size", [(512, 512), (640, 480), (480, 640), (1920, 1080), (1000, 1), (577, 500), (500, 577)])
def test_every_image_has_one_bucket_and_it_is_the_nearest(size):
    takers = [ratio for ratio in RATIOS if bucket(ratio).takes(*size)]
    shape = size[0] / size[1]
    factors = {r: max(shape / value, value / shape) for r in RATIOS for value in [eval(r.replace(":", "/"))]}
    assert takers == [min(factors, key=lambda ratio: factors[ratio])]


@pytest.mark.parametrize("resolution", [256, 512])
@pytest.mark.parametrize("ratio", RATIOS)
def test_buckets_have_about_their_ratio_and_area(resolution, ratio):
    height, width = bucket(ratio).size(resolution)
    assert height % 16 == width % 16 == 0
    assert height * width == pytest.approx(resolution**2, rel=0.06)
    assert width / height == pytest.approx(eval(ratio.replace(":", "/")), rel=0.08)


def test_random_squares_follow_from_seed_and_key_and_are_spread():
    places = [RandomSquare(seed=1).place(f"image {i}") for i in range(1000)]
    assert places == [RandomSquare(seed=1).place(f"image {i}") for i in range(1000)]
    assert places[0] != RandomSquare(seed=2).place("image 0")
    assert min(Counter(int(10 * place) for place in places).values()) > 60
    assert len(Counter(int(10 * place) for place in places)) == 10
    assert CentreSquare().place("image 0") == 0.5


def test_a_crop_lies_where_it_is_placed():
    ramp = Image.fromarray(np.tile(np.arange(60, dtype=np.uint8), (20, 1)))
    assert np.asarray(crop(ramp, (20, 20), place=0.0))[0].tolist() == list(range(20))
    assert np.asarray(crop(ramp, (20, 20), place=1.0))[0].tolist() == list(range(40, 60))
    assert np.asarray(crop(ramp.rotate(90, expand=True), (20, 20), place=0.25))[:, 0].tolist() == list(
        range(49, 29, -1)
    )
    assert crop(ramp, (16, 32)).size == (32, 16)
    assert crop(ramp, (40, 120)).size == (120, 40)


def test_bad_ratios_say_what_to_write():
    with pytest.raises(ValueError, match=r"crop\.ratio 5:4 is none of crop\.among; set it to one of 1:1, 4:3"):
        bucket("5:4")
    for ratio in ("4x3", "4:0", "a:b"):
        with pytest.raises(ValueError, match=f"aspect ratio '{ratio}' is not understood; write it as width:height"):
            bucket(ratio, among=(ratio,)).size(256)
