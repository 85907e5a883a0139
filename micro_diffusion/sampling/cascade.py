"""Several models in a row: the first makes a small image, each further one enlarges what the one before has made.

Ho et al. 2021, "Cascaded Diffusion Models", arXiv 2106.15282; Saharia et al. 2022 (Imagen), arXiv 2205.11487.
Legend: B images, H W pixels.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from micro_diffusion.sampling.guidance import EVERY_LEVEL
from micro_diffusion.sampling.pipeline import Pipeline


@dataclass(frozen=True)
class Stage:
    """One model of a cascade, which is loaded when its turn comes.

    name: for messages. resolution: (H, W) of its images. given: (H, W) of the smaller image that it enlarges, or None
    for a base model. load: makes its pipeline. guidance_scale: its own.
    """

    name: str
    resolution: tuple[int, int]
    given: tuple[int, int] | None
    load: Callable[[], Pipeline]
    guidance_scale: float = 1.0


class StageImages(NamedTuple):
    """What a stage has made: uint8 (B, 3, H, W) on the CPU. peak_bytes: of GPU memory while it worked, 0 on a CPU."""

    name: str
    images: Tensor
    peak_bytes: int


class Cascade:
    """Stages from the smallest images to the largest.

    Args:
        stages: at least one.

    Raises:
        ValueError: when there is none, a base model does not come first, or resolutions do not follow.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        if not stages:
            raise ValueError("a cascade without stages generates nothing; give at least one run")
        for before, after in itertools.pairwise(stages):
            if after.given is None:
                raise ValueError(
                    f"{after.name} is a base model, which takes no smaller image, but stands after {before.name}; put "
                    "it first, or leave it out"
                )
            if after.given != before.resolution:
                raise ValueError(
                    f"{after.name} enlarges images of {_size(after.given)} pixels, but {before.name}, which stands "
                    f"before it, makes {_size(before.resolution)}; put the stages in the order of their resolutions, "
                    "or choose others"
                )
        self.stages = list(stages)

    def run(
        self,
        captions: Sequence[str],
        *,
        seed: int,
        guidance_scales: Sequence[float | None] = (),
        steps: Sequence[int | None] = (),
        guidance_interval: tuple[float, float] = EVERY_LEVEL,
        image: Tensor | None = None,
        start: int | None = None,
        stop: int | None = None,
        batch_size: int = 16,
        on_batch: Callable[[int], object] | None = None,
    ) -> Iterator[StageImages]:
        """The images of one stage after another; one network is loaded at a time.

        Args:
            captions: B texts, at least one.
            seed: any integer; each stage draws noise of its own from it, wherever the cascade starts.
            guidance_scales: of the stages, None for a stage's own; none at all for all their own.
            steps: of the stages, likewise.
            guidance_interval: of all stages.
            image: uint8 (3, H, W) or (B, 3, H, W) that the first of these stages enlarges.
            start: number of the first of these stages, from 0; None for the one that takes an image of that size, or
                without an image for the base model.
            stop: number of the last of these stages; None for the last of all.
            batch_size: images generated at once.
            on_batch: called after each batch with its number of images.

        Raises:
            ValueError: for a stage that there is not, scales or steps that are not one for each, or an image that is
                missing or not of the size that the first stage takes.
        """
        scales, counts = self._each(guidance_scales, "guidance scales"), self._each(steps, "numbers of steps")
        first = self._start(image, start)
        last = len(self.stages) - 1 if stop is None else stop
        if not first <= last < len(self.stages):
            raise ValueError(
                f"the cascade is to stop after stage {last}, but starts with {first} and has {len(self.stages)}; "
                f"choose one from {first} to {len(self.stages) - 1}"
            )
        return self._run(
            captions,
            range(first, last + 1),
            image,
            [
                stage.guidance_scale if scale is None else scale
                for stage, scale in zip(self.stages, scales, strict=True)
            ],
            counts,
            seed=seed,
            guidance_interval=guidance_interval,
            batch_size=batch_size,
            on_batch=on_batch,
        )

    def _run(
        self,
        captions: Sequence[str],
        numbers: range,
        image: Tensor | None,
        scales: Sequence[float],
        counts: Sequence[int | None],
        *,
        seed: int,
        **options,
    ) -> Iterator[StageImages]:
        for number in numbers:
            stage = self.stages[number]
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            pipeline = stage.load()
            image = pipeline.generate(
                captions,
                seed=stage_seed(seed, number),
                guidance_scale=scales[number],
                steps=counts[number],
                image=image,
                resolution=stage.resolution,
                **options,
            )
            del pipeline
            gc.collect()  # modules refer to themselves
            peak = 0
            if torch.cuda.is_available():
                peak = torch.cuda.max_memory_allocated()
                torch.cuda.empty_cache()
            yield StageImages(stage.name, image, peak)

    def _each(self, values: Sequence[float | int | None], what: str) -> list:
        if values and len(values) != len(self.stages):
            raise ValueError(f"there are {len(values)} {what} for {len(self.stages)} stages; give one for each")
        return list(values) or [None] * len(self.stages)

    def _start(self, image: Tensor | None, start: int | None) -> int:
        """The number of the first stage."""
        size = None if image is None else (image.shape[-2], image.shape[-1])
        if start is None:
            fitting = [number for number, stage in enumerate(self.stages) if stage.given == size]
            if not fitting and size is None:
                raise ValueError(
                    f"{self.stages[0].name} enlarges images, but there is no base model before it, and no image is "
                    f"given; give one of {_size(self.stages[0].given)} pixels, or put a base model first"
                )
            if not fitting:
                taken = [f"{stage.name} {_size(stage.given)}" for stage in self.stages if stage.given is not None]
                raise ValueError(
                    f"the image has {_size(size)} pixels, but no stage enlarges such a one (a base model takes none; "
                    f"{', '.join(taken) or 'there is no other'}); resize it, or add a stage"
                )
            return fitting[0]
        if not 0 <= start < len(self.stages):
            raise ValueError(f"there is no stage {start}; choose one from 0 to {len(self.stages) - 1}")
        stage = self.stages[start]
        if stage.given is None and size is not None:
            raise ValueError(f"{stage.name} is a base model, which takes no smaller image; leave the image out")
        if stage.given != size:
            there = "none" if size is None else f"one of {_size(size)}"
            raise ValueError(
                f"{stage.name} enlarges an image of {_size(stage.given)} pixels, but is given {there}; give it that"
            )
        return start


def stage_seed(seed: int, number: int) -> int:
    """A stage's seed, so that no stage starts from the noise of another; the base model's is the seed itself."""
    if number == 0:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed}/stage/{number}".encode(), digest_size=6).digest(), "little")


def _size(size: tuple[int, int] | None) -> str:
    return "no" if size is None else f"{size[0]}×{size[1]}"
