"""Captions in any script: drawn where a font has them, escaped and said where none has."""

from __future__ import annotations

import warnings

import pytest
import torch
from PIL import Image, ImageChops, ImageDraw, ImageFont

from micro_diffusion.sampling.caption_font import CaptionFont
from micro_diffusion.sampling.grid import captioned_grid

ANY = "\U0010fffd"
"""Private use; in no font."""


def drawn(font: CaptionFont, text: str) -> Image.Image:
    sheet = Image.new("L", (200, 20))
    font.draw(ImageDraw.Draw(sheet), (0, 0), text, (255,))
    return sheet


def test_plain_captions_look_as_they_always_did():
    font, text = CaptionFont(12), "a red circle, 3 (three)"
    plain = Image.new("L", (200, 20))
    ImageDraw.Draw(plain).text((0, 0), text, font=ImageFont.load_default(12), fill=255)
    assert ImageChops.difference(drawn(font, text), plain).getbbox() is None
    assert font.getlength(text) == ImageFont.load_default(12).getlength(text)


def test_what_no_font_has_is_escaped_with_a_warning():
    with pytest.warns(UserWarning, match=r"no font here has 2 of the characters .* such as .u0436"):
        texts = CaptionFont(12, fallbacks=[]).drawable(["a ж", "ж й", "plain"])
    assert texts == ["a \\u0436", "\\u0436 \\u0439", "plain"]
    with pytest.warns(UserWarning, match="such as .u10fffd"):
        captioned_grid(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), [f"one {ANY}"])


def test_a_font_of_the_system_takes_what_pillows_lacks():
    try:
        dejavu = ImageFont.truetype("DejaVuSans.ttf", 12)
    except OSError:
        pytest.skip("the system has no DejaVu Sans")
    font = CaptionFont(12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert font.drawable(["лиса fox"]) == ["лиса fox"]
    sheet = Image.new("L", (200, 20))
    ImageDraw.Draw(sheet).text((0, 0), "лиса", font=dejavu, fill=255)
    assert ImageChops.difference(drawn(font, "лиса"), sheet).getbbox() is None
    assert font.getlength("лиса fox") == pytest.approx(dejavu.getlength("лиса") + CaptionFont(12).getlength(" fox"))
