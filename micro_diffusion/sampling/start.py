"""Where each image starts: noise that follows from a seed, a prompt, or points between two of them.

Legend: B images, C latent channels, h w latent cells, L tokens, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from micro_diffusion.condition import Condition
from micro_diffusion.text.encoder import TextEncoder


@dataclass(frozen=True)
class Between:
    """A point between two seeds or two prompts; share: 0 is the first, 1 the second."""

    first: Any
    second: Any
    share: float


Seed = int | tuple[int, int] | torch.Generator | Between
"""What one image starts from: s is short for the pair (s, 0)."""


def image_generator(seed: int, index: int) -> torch.Generator:
    """A CPU generator that depends on the pair (seed, index) alone, so that no two images share their noise."""
    digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def sources(seed: int | Sequence[Seed], start: int, count: int) -> list[torch.Generator | Between]:
    """What the noise of the images from `start` on is drawn from.

    seed: one for all, of which image i gets (seed, i); or one for each image, which then gets (its seed, 0).
    """
    if isinstance(seed, int):
        return [image_generator(seed, start + i) for i in range(count)]
    return [_source(one) for one in seed[start : start + count]]


def _source(seed: Seed) -> torch.Generator | Between:
    if isinstance(seed, Between):
        return Between(_source(seed.first), _source(seed.second), seed.share)
    if isinstance(seed, int):
        return image_generator(seed, 0)
    return image_generator(*seed) if isinstance(seed, tuple) else seed


def generator_of(source: torch.Generator | Between) -> torch.Generator:
    """For the noise of a stochastic sampler: the generator itself, or the first of two."""
    return generator_of(source.first) if isinstance(source, Between) else source


def unit_noise(source: torch.Generator | Between, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise (C, h, w) on the CPU."""
    if isinstance(source, Between):
        return slerp(unit_noise(source.first, shape), unit_noise(source.second, shape), source.share)
    return torch.randn(shape, generator=source, device=source.device).cpu()


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """The point at `share` of the arc from a to b, so that noise keeps its variance (Shoemake 1985)."""
    angle = torch.arccos((a * b).sum().div(a.norm() * b.norm()).clamp(-1, 1))
    if angle.sin() < 1e-6:
        return torch.lerp(a, b, share)
    return (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)


def encoded(encoder: TextEncoder, prompts: Sequence[str | Between]) -> Condition:
    """B prompts or points between two -> Condition of tokens (B, L, D); each text is encoded once."""
    ends = [(p.first, p.second, p.share) if isinstance(p, Between) else (p, p, 0.0) for p in prompts]
    texts = list(dict.fromkeys(text for first, second, _ in ends for text in (first, second)))
    known = encoder.encode(texts)
    first, second = (torch.tensor([texts.index(end[side]) for end in ends]) for side in (0, 1))
    share = torch.tensor([end[2] for end in ends], device=known.tokens.device, dtype=known.tokens.dtype)
    tokens = torch.lerp(known.tokens[first], known.tokens[second], share[:, None, None])
    if known.mask is None:
        return known._replace(tokens=tokens)
    here, there = (share < 1)[:, None], (share > 0)[:, None]
    return known._replace(tokens=tokens, mask=known.mask[first] & here | known.mask[second] & there)


def with_negative(prompts: Condition, negative: Condition, given: Sequence[bool]) -> Condition:
    """What guidance goes away from: the negative prompts, or nothing where none is given.

    prompts, negative: of B rows. given: for each row whether there is a negative prompt.
    """
    absent = torch.tensor([not one for one in given], device=negative.tokens.device)
    mask = (
        negative.mask
        if negative.mask is None or prompts.mask is None
        else (torch.where(absent[:, None], prompts.mask, negative.mask))
    )
    return negative._replace(mask=mask).dropped(absent)
