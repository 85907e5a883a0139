"""Whether images show what captions of the shapes data set say: the score of a text-to-image model's composition."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Literal, NamedTuple, get_args

import numpy as np
from torch import Tensor

from micro_diffusion.bounds import PositiveInt, Seed
from micro_diffusion.data.sources.shape_scenes import (
    HELD_OUT,
    RELATIONS,
    Description,
    HeldOut,
    caption,
    parse_caption,
    scene,
)
from micro_diffusion.evaluation.recognition import RecognisedObject, Recognition, recognise


class Judgement(NamedTuple):
    """Which statements of a caption hold in an image.

    count: the image shows as many objects as the caption names, and nothing else. colour, shape, size: those of
    every named object. relation: true for a caption without one.
    """

    background: bool
    count: bool
    colour: bool
    shape: bool
    size: bool
    relation: bool

    @property
    def correct(self) -> bool:
        """Whether everything that the caption says holds."""
        return all(self)


def judge(image: np.ndarray, text: str) -> Judgement:
    """Judge an image, (H, H, 3) uint8, against a caption of the shapes data set.

    Raises:
        ValueError: when the image has another form or the caption is none of that data set's.
    """
    return compare(recognise(image), parse_caption(text))


def compare(seen: Recognition, said: Description) -> Judgement:
    """Judge what an image shows against what a caption says, naming its objects to the caption's greatest favour."""
    named = len(said.objects)
    candidates: list[RecognisedObject | None] = [*seen.objects[:8], *[None] * named]
    verdicts = (_verdict(chosen, said) for chosen in permutations(candidates, named))
    colour, shape, size, relation = max(verdicts, key=sum)
    count = len(seen.objects) == named and seen.unexplained == 0
    return Judgement(seen.background == said.background, count, colour, shape, size, relation)


def _verdict(chosen: Sequence[RecognisedObject | None], said: Description) -> tuple[bool, bool, bool, bool]:
    """Colour, shape, size and relation, taking the chosen objects for the caption's, None for a missing one."""
    pairs = list(zip(chosen, said.objects, strict=True))
    colour, shape, size = (
        all(seen is not None and getattr(seen, field) == getattr(named, field) for seen, named in pairs)
        for field in ("colour", "shape", "size")
    )
    return colour, shape, size, said.relation is None or _related(chosen, said.relation)


def _related(chosen: Sequence[RecognisedObject | None], relation: str) -> bool:
    """Whether the first object lies where the relation says, and more so than in the other direction."""
    first, second = chosen
    if first is None or second is None:
        return False
    step = np.array([first.x - second.x, first.y - second.y])
    direction = np.array(RELATIONS[relation])
    return bool(step @ direction > abs(step @ direction[::-1]))


def score(images: Sequence[np.ndarray], captions: Sequence[str]) -> dict[str, float]:
    """The fraction of images that show what their captions say: "correct", and each statement by itself.

    Raises:
        ValueError: when there are no images, or not as many captions.
    """
    if not len(images) or len(images) != len(captions):
        raise ValueError(f"{len(images)} images and {len(captions)} captions; give one caption for every image")
    judgements = [judge(image, text) for image, text in zip(images, captions, strict=True)]
    statements = {name: float(np.mean([getattr(j, name) for j in judgements])) for name in Judgement._fields}
    return {"correct": float(np.mean([j.correct for j in judgements])), **statements}


class CompositionMetrics:
    """`score` of generated images, as a metric while training on the shapes data set."""

    def __call__(self, images: Tensor, captions: Sequence[str]) -> dict[str, float]:
        """uint8 (N, 3, H, H) and N captions of that data set -> fractions that are right."""
        return score(list(images.permute(0, 2, 3, 1).cpu().numpy()), captions)


class CompositionByKind:
    """The fraction of generated images that are right in everything, for each kind of prompt."""

    def __call__(self, images: Tensor, captions: Sequence[str]) -> dict[str, float]:
        """uint8 (N, 3, H, H) and N captions of the shapes data set -> fractions by kind, of those that there are."""
        right: dict[PromptKind, list[bool]] = {kind: [] for kind in get_args(PromptKind)}
        for image, text in zip(images.permute(0, 2, 3, 1).cpu().numpy(), captions, strict=True):
            right[kind_of(text)].append(judge(image, text).correct)
        return {kind: float(np.mean(marks)) for kind, marks in right.items() if marks}


PromptKind = Literal["single", "two", "held_out"]


def kind_of(text: str) -> PromptKind:
    """Which kind of prompt a caption of the shapes data set is."""
    first, *others = parse_caption(text).objects
    if others:
        return "two"
    return "held_out" if (first.colour, first.shape) in HELD_OUT else "single"


def composition_captions(*, count: PositiveInt, seed: Seed) -> list[str]:
    """`count` prompts of each kind, kind by kind."""
    return [text for kind in get_args(PromptKind) for text in composition_prompts(kind=kind, count=count, seed=seed)]


def composition_prompts(*, kind: PromptKind, count: int, seed: int) -> list[str]:
    """Prompts to measure composition with, the same for the same arguments.

    Args:
        kind: "single" names one object and "two" a pair of them, all of colours and shapes that training shows
            together; "held_out" names one object of a colour and shape that it never does.
        count: number of prompts.
        seed: non-negative.
    """
    drawn: dict[str, tuple[float, HeldOut]] = {
        "single": (0.0, "exclude"),
        "two": (1.0, "exclude"),
        "held_out": (0.0, "only"),
    }
    if kind not in drawn:
        raise ValueError(f"kind is {kind!r}; set it to one of {', '.join(drawn)}")
    pairs, held_out = drawn[kind]
    return [caption(scene(seed, index, pairs=pairs, held_out=held_out)) for index in range(count)]
