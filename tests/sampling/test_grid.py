"""Captioned grids: the images stay as they are, captions stay within their cell, marks are visible."""

import pytest
import torch
from PIL import ImageFont

from micro_diffusion.sampling.grid import MARK_COLOURS, captioned_grid, to_pil, wrapped


def pixels(some_image) -> torch.Tensor:
    width, height = some_image.size
    return torch.frombuffer(bytearray(some_image.tobytes()), dtype=torch.uint8).view(height, width, 3).permute(2, 0, 1)


def test_images_stay_bit_for_bit():
    images = torch.randint(0, 256, (3, 3, 8, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pixels(to_pil(images[0])), images[0])
    sheet = pixels(captioned_grid(images, ["a", "b", "c"], columns=2, cell_width=16, font_size=12))
    for index, (top, left) in enumerate([(6, 6), (6, 6 + 16 + 6)]):
        assert torch.equal(sheet[:, top : top + 8, left : left + 16], images[index])


def test_small_images_are_enlarged_by_a_whole_factor():
    image = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sheet = pixels(captioned_grid(image, ["a"], cell_width=30))
    enlarged = image[0].repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert torch.equal(sheet[:, 6 : 6 + 32, 6 : 6 + 32], enlarged)


def test_a_long_caption_makes_its_row_higher():
    image = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    short = captioned_grid(image, ["a", "b"])
    long = captioned_grid(image, ["a", "b " * 100])
    assert long.width == short.width
    assert long.height > short.height + 80


@pytest.mark.parametrize(
    "text", ["a large red circle on a white background", "x" * 300, "a " + "y" * 50 + " b", "", " "]
)
def test_lines_fit_and_lose_nothing(text: str):
    font = ImageFont.load_default(12)
    lines = wrapped(text, font, 100)
    assert all(font.getlength(line) <= 100 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_marks_are_drawn_in_their_colour():
    image = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    for marks in ([True, True], [False, False]):
        sheet = captioned_grid(image, ["a", "b"], marks=marks)
        colours = {colour for _, colour in sheet.getcolors(100_000)}
        assert MARK_COLOURS[marks[0]] in colours
        assert MARK_COLOURS[not marks[0]] not in colours


def test_counts_must_agree():
    image = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    with pytest.raises(ValueError, match="2 images came with 1 captions"):
        captioned_grid(image, ["a"])
    with pytest.raises(ValueError, match="0 images"):
        captioned_grid(image[:0], [])
