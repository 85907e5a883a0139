"""What a model that completes images makes of shapes that lack a half: is the image then what its caption says?

Legend: B images, H pixels of a side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from micro_diffusion.data.sources.shape_scenes import BACKGROUNDS, caption, render, scene
from micro_diffusion.diffusion.known_region import REGIONS, cells_of
from micro_diffusion.evaluation.composition import judge, score
from micro_diffusion.sampling.grid import captioned_grid

HALVES = ("left", "right", "top", "bottom")
SHOWN = 8
"""Images in the grid."""


def completion_report(
    generate: Callable[[Sequence[str], Tensor, Tensor], Tensor], *, side: int, count: int, seed: int
) -> tuple[dict[str, Any], Image.Image]:
    """Erase a half of each of several images of the shapes data set, have it generated, and judge the whole.

    Only images are taken that the judge finds wrong when the half is of the background's colour: in all others nothing
    needs to be generated.

    Args:
        generate: captions, images uint8 (B, 3, H, H) and the unknown pixels, bool (B, 1, H, H) -> uint8 (B, 3, H, H).
        side: H, in pixels; the judge is made for 64.
        count: images, at least 1.
        seed: of the scenes, non-negative.

    Returns:
        The report, and a grid of the first images: erased, completed and true, a row each. The report holds
        `completion`: the fraction of completed and of true images that are right in everything; `statements`: of the
        completed ones, the fractions right in background, count, colour, shape, size and relation; and
        `known_changed`: the largest change of a known pixel, in 0..255.
    """
    captions, true, erased, unknown = _erased(side, count, seed)
    made = generate(captions, true, unknown)
    scores = {name: score(_for_judge(images), captions) for name, images in (("completed", made), ("true", true))}
    report = {
        "completion": {name: values.pop("correct") for name, values in scores.items()},
        "statements": scores["completed"],
        "known_changed": int(torch.where(unknown, 0, made.int() - true.int()).abs().max()),
        "images": count,
    }
    columns = min(SHOWN, count)
    rows = [images[:columns] for images in (erased, made, true)]
    shown, texts = torch.cat(rows), captions[:columns] * len(rows)
    marks = [judge(*pair).correct for pair in zip(_for_judge(shown), texts, strict=True)]
    return report, captioned_grid(shown, texts, marks=marks, columns=columns)


def _erased(side: int, count: int, seed: int) -> tuple[list[str], Tensor, Tensor, Tensor]:
    """Captions, true images, the same with a half in the background's colour, and that half (B, 1, H, H) bool."""
    found: list[tuple[str, Tensor, Tensor, Tensor]] = []
    index = 0
    while len(found) < count:
        drawn = scene(seed + 1_000_000, index, pairs=0.5, held_out="include")
        true = torch.tensor(render(drawn, side)).permute(2, 0, 1)
        unknown = cells_of(torch.tensor([REGIONS[HALVES[index % len(HALVES)]]]), (side, side))[0]
        background = torch.tensor(BACKGROUNDS[drawn.description.background], dtype=torch.uint8)[:, None, None]
        erased = torch.where(unknown, background, true)
        if not judge(erased.permute(1, 2, 0).numpy(), caption(drawn)).correct:
            found.append((caption(drawn), true, erased, unknown))
        index += 1
    captions, true, erased, unknown = zip(*found, strict=True)
    return list(captions), torch.stack(true), torch.stack(erased), torch.stack(unknown)


def _for_judge(images: Tensor) -> list[np.ndarray]:
    return list(images.permute(0, 2, 3, 1).numpy())
