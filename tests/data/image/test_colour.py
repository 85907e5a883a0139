"""Images of every kind of pixel become the same 8 bits in sRGB."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from micro_diffusion.data.image.open_image import UnreadableImage, read_image
from micro_diffusion.data.prepare.preparation import Preparation


def file(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def grey(values: np.ndarray, form: str = "TIFF") -> list[int]:
    return np.asarray(read_image(file(Image.fromarray(values), form)).rgb)[0, :, 0].tolist()


def test_deeper_pixels_are_scaled_not_clipped():
    assert grey(np.float32([[0, 0.5, 1]])) == [0, 128, 255]
    assert grey(np.float32([[0, 127.6, 255]])) == [0, 128, 255]
    assert grey(np.int32([[0, 32896, 65535]])) == [0, 128, 255]
    assert grey(np.int32([[0, 128, 255]])) == [0, 128, 255]
    assert grey(np.uint16([[0, 32896, 65535]]), "PNG") == [0, 128, 255]


@pytest.mark.parametrize("values", [np.float32([[0, 1000]]), np.float32([[-1, 1]]), np.int32([[0, 70000]])])
def test_pixels_of_no_known_range_are_refused(values):
    with pytest.raises(UnreadableImage, match="are in no range that is known"):
        grey(values)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped() -> bytes:
    """The profile of sRGB with red and blue exchanged, under another name."""
    renamed = SRGB.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))
    return renamed.replace(b"rXYZ", b"____").replace(b"bXYZ", b"rXYZ").replace(b"____", b"bXYZ")


def test_colour_profiles_are_followed():
    plain = Image.new("RGB", (4, 4), (200, 40, 90))
    made = np.asarray(read_image(file(plain, "PNG", icc_profile=swapped())).rgb)[0, 0]
    assert np.abs(made.astype(int) - (90, 40, 200)).max() <= 2
    for profile in (SRGB, b"damaged"):
        assert np.array_equal(np.asarray(read_image(file(plain, "PNG", icc_profile=profile)).rgb), np.asarray(plain))


def test_transparency_stays_beside_a_profile():
    clear = Image.new("RGBA", (4, 4), (200, 40, 90, 0))
    assert np.asarray(read_image(file(clear, "PNG", icc_profile=swapped())).rgb).min() == 255


def test_long_texts_in_a_png_are_no_hindrance():
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * 2 * 2**20, zip=True)
    assert read_image(file(Image.new("RGB", (4, 4)), "PNG", pnginfo=text)).size == (4, 4)


def test_phone_images_with_a_second_one_stay_as_they_are():
    first, second = (Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (200, 20))
    content = file(first, "MPO", save_all=True, append_images=[second])
    stored, size = Preparation().encode(content)
    assert (stored, size) == (content, (8, 8))
    assert np.asarray(read_image(stored).rgb).mean() > 150
