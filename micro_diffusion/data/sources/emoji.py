"""The images of a colour emoji font, with their Unicode names as captions, as a source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont, features

from micro_diffusion.bounds import Byte, PositiveInt
from micro_diffusion.data.sources.optional import optional
from micro_diffusion.data.sources.source import CaptionedImage, Rejected

PART = 64
REGIONAL_INDICATORS = range(0x1F1E6, 0x1F200)
TAGGED_FLAG = 0x1F3F4  # the black flag that begins the flags of England, Scotland and Wales
UNASSIGNED = "\U0010fffe"


class Entry(NamedTuple):
    """One emoji: its code points and its name."""

    text: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Emoji:
    """Every emoji that a font can draw as one image, skin tones, flags and joined sequences included.

    The names are the English short names of the Unicode CLDR, as the package `emoji` lists them.

    Args:
        font: path of a colour emoji font, such as Debian's fonts-noto-color-emoji.
        resolution: side of an image in pixels.
        strike: font size in pixels at which the font is drawn; a font of bitmaps has one size only, 109 for Noto's.
        background: colour behind the emoji, 8-bit RGB.

    Raises:
        FileNotFoundError: when there is no such font.
        ImportError: when the package `emoji`, or Pillow's text layout, is missing.
        ValueError: when the font has no images of that size.
    """

    font: str
    resolution: PositiveInt = 128
    strike: PositiveInt = 109
    background: tuple[Byte, Byte, Byte] = (255, 255, 255)

    def __post_init__(self) -> None:
        if not Path(self.font).is_file():
            raise FileNotFoundError(
                f"there is no font {self.font}; install a colour emoji font (Debian: apt install "
                f"fonts-noto-color-emoji) or set source.font"
            )
        if not features.check("raqm"):
            raise ImportError(
                "Pillow cannot join emoji sequences; install the system's libfribidi (Debian: libfribidi0)"
            )
        object.__setattr__(self, "background", tuple(self.background))
        _load(self.font, self.strike)

    def __len__(self) -> int:
        return len(_entries())

    def parts(self) -> Sequence[Sequence[Entry]]:
        """Runs of entries."""
        return [_entries()[start : start + PART] for start in range(0, len(self), PART)]

    def files_of(self, part: Sequence[Entry]) -> Iterable[Path]:
        """The font."""
        return [Path(self.font)]

    def read(self, part: Sequence[Entry]) -> Iterator[CaptionedImage | Rejected]:
        """Draw some entries."""
        font = _load(self.font, self.strike)
        for entry in part:
            glyph = _draw(font, entry.text)
            key = "-".join(f"{ord(letter):x}" for letter in entry.text)
            if glyph is None:
                yield Rejected(key, "not in the font")
                continue
            side = max(glyph.size)
            canvas = Image.new("RGB", (side, side), self.background)
            canvas.paste(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2), glyph)
            image = canvas.resize((self.resolution, self.resolution), Image.Resampling.LANCZOS)
            yield CaptionedImage(image, entry.name, key)


@lru_cache(maxsize=1)
def _entries() -> tuple[Entry, ...]:
    """All emoji of the Unicode version that the package `emoji` knows, ordered by code points."""
    package = optional("emoji", extra="emoji")
    complete = package.STATUS["fully_qualified"]
    listed = ((text, entry["en"]) for text, entry in package.EMOJI_DATA.items() if entry["status"] == complete)
    return tuple(sorted(Entry(text, _name(text, short_name)) for text, short_name in listed))


def _name(text: str, short_name: str) -> str:
    """A short name such as ":thumbs_up:" -> "thumbs up"; the name of a country -> "flag of" that country."""
    words = short_name.strip(":").replace("_", " ")
    is_flag = ord(text[0]) in REGIONAL_INDICATORS or (ord(text[0]) == TAGGED_FLAG and "\U000e007f" in text)
    return f"flag of {words}" if is_flag else words


@lru_cache(maxsize=4)
def _load(font: str, strike: int) -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype(font, strike, layout_engine=ImageFont.Layout.RAQM)
    except OSError as error:
        raise ValueError(
            f"{font} cannot be drawn at {strike} px ({error}); set source.strike to a size it has"
        ) from error


def _draw(font: ImageFont.FreeTypeFont, text: str) -> Image.Image | None:
    """The emoji on a transparent ground, or None when the font lacks it.

    A font that lacks a sequence draws its parts in a row, wider than one emoji.
    """
    if font.getlength(text) > 1.2 * font.getlength("\U0001f600"):
        return None
    glyph = _stamp(font, text)
    return None if glyph.getbbox() is None or glyph == _stamp(font, UNASSIGNED) else glyph


def _stamp(font: ImageFont.FreeTypeFont, text: str) -> Image.Image:
    """Whatever the font draws for a text, on a transparent ground of its size."""
    left, top, right, bottom = font.getbbox(text)
    glyph = Image.new("RGBA", (max(1, round(right - left)), max(1, round(bottom - top))))
    ImageDraw.Draw(glyph).text((-left, -top), text, font=font, embedded_color=True)
    return glyph
