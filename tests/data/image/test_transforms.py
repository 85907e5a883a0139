"""Transforms between an image's file and an encoder."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from micro_diffusion.data.image.transforms import crop, normalise, shrink, to_rgb, to_tensor


def test_transparent_parts_lie_over_the_background():
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    image.putpixel((0, 0), (255, 0, 0, 255))
    pixels = np.asarray(to_rgb(image, background=(1, 2, 3)))
    assert pixels[0, 0].tolist() == [255, 0, 0]
    assert pixels[1, 1].tolist() == [1, 2, 3]


def test_a_palette_with_transparency_lies_over_the_background():
    image = Image.new("P", (2, 2), 0)
    image.putpalette([10, 20, 30, 200, 100, 0])
    image.putpixel((1, 1), 1)
    buffer = io.BytesIO()
    image.save(buffer, "png", transparency=0)
    pixels = np.asarray(to_rgb(Image.open(io.BytesIO(buffer.getvalue()))))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[1, 1].tolist() == [200, 100, 0]


def test_sixteen_bits_are_divided_rather_than_clipped():
    image = Image.fromarray(np.array([[0, 32896, 65535]], dtype=np.uint16))
    assert np.asarray(to_rgb(image))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "YCbCr", "HSV", "F", "I"])
def test_every_mode_becomes_rgb(mode):
    assert to_rgb(Image.new(mode, (3, 2))).mode == "RGB"


def test_an_image_is_turned_as_its_file_says():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    image = Image.new("RGB", (4, 2), "black")
    image.paste((255, 0, 0), (0, 0, 2, 2))
    buffer = io.BytesIO()
    image.save(buffer, "png", exif=exif)
    turned = to_rgb(Image.open(io.BytesIO(buffer.getvalue())))
    assert turned.size == (2, 4)
    assert np.asarray(turned)[0, 0].tolist() == [255, 0, 0]
    assert np.asarray(turned)[3, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("size", "expected"), [((100, 50), (40, 20)), ((33, 97), (20, 59)), ((20, 30), (20, 30)), ((8, 8), (8, 8))]
)
def test_shrink_bounds_the_shorter_side_only(size, expected):
    assert shrink(Image.new("RGB", size), shorter_side=20).size == expected


def test_shrink_bounds_both_sides():
    assert shrink(Image.new("RGB", (100, 50)), longer_side=40).size == (40, 20)
    assert shrink(Image.new("RGB", (100, 50)), shorter_side=40, longer_side=60).size == (60, 30)
    assert shrink(Image.new("RGB", (100, 50)), shorter_side=20, longer_side=60).size == (40, 20)
    assert shrink(Image.new("RGB", (100, 50)), longer_side=100).size == (100, 50)


def test_the_centre_square_is_kept():
    image = Image.new("RGB", (30, 10), "black")
    image.paste((255, 255, 255), (10, 0, 20, 10))
    for resolution in (10, 5, 20):
        assert np.asarray(crop(image, (resolution, resolution))).shape == (resolution, resolution, 3)
        assert np.asarray(crop(image, (resolution, resolution))).min() > 250


def test_resizing_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = np.asarray(crop(Image.fromarray(stripes), (16, 16))).astype(int)
    assert np.abs(small[:, 2:-2] - 127.5).max() < 6  # without antialiasing the stripes would stay black or white


def test_tensors_cover_minus_one_to_one():
    image = Image.fromarray(np.array([[[0, 127, 255], [1, 2, 3]]], dtype=np.uint8))
    tensor = to_tensor(image)
    assert tensor.shape == (3, 1, 2)
    assert tensor[:, 0, 1].tolist() == [1, 2, 3]
    assert torch.allclose(normalise(tensor)[:, 0, 0], torch.tensor([-1.0, -0.00392, 1.0]), atol=1e-4)
