"""Captions in whatever script: Pillow's own font, then fonts of the system, and an escape for what none of them has."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby

from PIL import ImageDraw, ImageFont

FALLBACKS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansArabic-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansThai-Regular.ttf",
    "NotoEmoji-Regular.ttf",
    "Arial Unicode.ttf",
    "msyh.ttc",
)
"""Names by which Pillow looks for fonts in the system's folders; those that are there are used in this order."""

_UNASSIGNED = "\U0010fffe"
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class CaptionFont:
    """Measures and draws texts; each character in the first font that has it.

    Args:
        size: height in pixels.
        fallbacks: names of fonts after Pillow's own.
    """

    def __init__(self, size: int, fallbacks: Sequence[str] = FALLBACKS) -> None:
        self.size, self._fallbacks = size, tuple(fallbacks)
        self._own = ImageFont.load_default(size)

    def drawable(self, texts: Sequence[str]) -> list[str]:
        r"""The texts with a `\u…` in the place of each character that no font has, after a warning that says so."""
        lacking = sorted({character for text in texts for character in text if self._font(character) is None})
        if not lacking:
            return list(texts)
        warnings.warn(
            f"no font here has {len(lacking)} of the characters of these captions, such as {_escaped(lacking[0])}; "
            "they are written so, until a font with them is installed (Debian: fonts-dejavu-core, fonts-noto-cjk)",
            stacklevel=3,
        )
        escapes = str.maketrans({character: _escaped(character) for character in lacking})
        return [text.translate(escapes) for text in texts]

    def getlength(self, text: str) -> float:
        """Pixels from its left to its right."""
        return sum(font.getlength(run) for font, run in self._runs(text))

    def draw(self, draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, fill: tuple[int, ...]) -> None:
        """Draw a line with its upper left corner at a place."""
        left, top = place
        for font, run in self._runs(text):
            draw.text((left, top), run, font=font, fill=fill)
            left += font.getlength(run)

    def _runs(self, text: str) -> Iterator[tuple[_Font, str]]:
        """Runs of characters of one font."""
        for font, run in groupby(text, key=lambda character: self._font(character) or self._own):
            yield font, "".join(run)

    def _font(self, character: str) -> _Font | None:
        """The first font that has a character, or None."""
        if character.isascii() or character.isspace() or _has(self._own, character):
            return self._own
        return next((font for font in _found(self._fallbacks, self.size) if _has(font, character)), None)


@lru_cache(maxsize=8)
def _found(names: tuple[str, ...], size: int) -> list[ImageFont.FreeTypeFont]:
    """Those of the fonts that are there."""
    fonts = []
    for name in names:
        try:
            fonts.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return fonts


@lru_cache(maxsize=65536)
def _has(font: _Font, character: str) -> bool:
    """Whether a font draws a character otherwise than one that no font has."""
    try:
        return bytes(font.getmask(character)) != bytes(font.getmask(_UNASSIGNED))
    except UnicodeEncodeError:  # Pillow's font without FreeType knows Latin-1 alone
        return False


def _escaped(character: str) -> str:
    return f"\\u{ord(character):04x}"
