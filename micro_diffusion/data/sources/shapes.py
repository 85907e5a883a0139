"""The embedded data set of captioned shapes as a source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from micro_diffusion.bounds import Fraction, NonNegativeInt, PositiveInt
from micro_diffusion.data.sources.shape_scenes import HeldOut, caption, render, scene, short_caption
from micro_diffusion.data.sources.source import CaptionedImage

PART = 128


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Renders of coloured shapes, see `micro_diffusion.data.sources.shape_scenes`.

    Args:
        seed: non-negative; another seed gives another data set, for evaluation.
        count: number of images.
        resolution: side of an image in pixels.
        pairs: fraction of images with two objects, in [0, 1].
        held_out: "exclude" leaves out the pairs of colour and shape that training must not see, "only" draws nothing
            else, "include" draws all alike.
        short_captions: whether each image has a second caption, of the objects' colours and shapes alone.
    """

    seed: NonNegativeInt
    count: PositiveInt
    resolution: PositiveInt
    pairs: Fraction = 0.5
    held_out: HeldOut = "exclude"
    short_captions: bool = False

    def __len__(self) -> int:
        return self.count

    def parts(self) -> Sequence[range]:
        """Ranges of scene numbers."""
        return [range(start, min(start + PART, self.count)) for start in range(0, self.count, PART)]

    def files_of(self, part: range) -> Iterable[Path]:
        """None."""
        return ()

    def read(self, part: range) -> Iterator[CaptionedImage]:
        """Draw the scenes of one range."""
        for index in part:
            drawn = scene(self.seed, index, pairs=self.pairs, held_out=self.held_out)
            image = Image.fromarray(render(drawn, self.resolution))
            further = (short_caption(drawn),) if self.short_captions else ()
            yield CaptionedImage(image, caption(drawn), f"shapes-{self.seed}-{index}", further)
