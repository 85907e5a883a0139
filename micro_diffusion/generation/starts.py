"""Which prompt goes with which seed: the images that a request asks for, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from micro_diffusion.sampling.start import Between

Prompt = TypeVar("Prompt", bound=str | Between)


def starts(
    prompts: Sequence[Prompt], seed: int | Sequence[int | Between], *, count: int, paired: bool
) -> tuple[list[Prompt], list[Any]]:
    """The prompt and the start of every image.

    Args:
        prompts: N of them.
        seed: an integer, from which image i starts with (seed, i); of several, each starts an image of every prompt.
        count: images for each prompt, and for each of several seeds.
        paired: whether prompt i goes with seed i alone, where there are N seeds.

    Returns:
        As many prompts as images; and as many starts, each a pair (seed, index) or a point between two such pairs.
    """
    if isinstance(seed, int):
        texts = [prompt for prompt in prompts for _ in range(count)]
        return texts, [(seed, index) for index in range(len(texts))]
    if paired and len(seed) == len(prompts):
        return list(prompts), [_start(one, 0) for one in seed]
    texts = [prompt for prompt in prompts for _ in range(len(seed) * count)]
    return texts, [_start(one, index) for _ in prompts for one in seed for index in range(count)]


def _start(seed: int | Between, index: int) -> Any:
    if isinstance(seed, Between):
        return Between(_start(seed.first, index), _start(seed.second, index), seed.share)
    return (seed, index)
