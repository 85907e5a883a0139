"""The measurements of a run as one JSON file, and the images behind them as one captioned grid."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from PIL import Image
from torch import Tensor

from micro_diffusion.evaluation.composition import PromptKind, composition_prompts, judge, score
from micro_diffusion.files.whole_file import whole_file
from micro_diffusion.sampling.grid import captioned_grid

GRID_COLUMNS = 8
SHOWN = 2 * GRID_COLUMNS
"""Judged images of each kind in the grid."""


def composition_report(
    generate: Callable[[Sequence[str]], Tensor], *, count: int, seed: int
) -> tuple[dict[str, Any], Image.Image]:
    """Generate and judge images for captions of the shapes data set.

    Args:
        generate: captions -> uint8 (B, 3, H, W), all kinds of prompts in one call.
        count: prompts of each kind.
        seed: of the prompts, non-negative; another seed asks for other objects.

    Returns:
        The report, and a grid of the first images of each kind, each marked right or wrong. The report holds
        `composition`: the fraction of images right in everything, by kind of prompt; `statements`: the fractions
        right in background, count, colour, shape, size and relation; `seconds`: time of generating, and of judging.

    Raises:
        ValueError: when the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"the prompts cannot be chosen with seed {seed}; use 0 or more")
    prompts = {kind: composition_prompts(kind=kind, count=count, seed=seed) for kind in get_args(PromptKind)}
    start = time.perf_counter()
    images = generate([caption for captions in prompts.values() for caption in captions]).split(count)
    generated = time.perf_counter()
    scores, shown, captions, marks = {}, [], [], []
    for (kind, kind_captions), kind_images in zip(prompts.items(), images, strict=True):
        judged = list(kind_images.permute(0, 2, 3, 1).numpy())
        scores[kind] = score(judged, kind_captions)
        shown.append(kind_images[:SHOWN])
        captions += kind_captions[:SHOWN]
        marks += [judge(*pair).correct for pair in zip(judged[:SHOWN], kind_captions[:SHOWN], strict=True)]
    report = {
        "composition": {kind: values.pop("correct") for kind, values in scores.items()},
        "statements": scores,
        "seconds": {"generate": round(generated - start, 2), "judge": round(time.perf_counter() - generated, 2)},
        "images": len(prompts) * count,
    }
    return report, captioned_grid(torch.cat(shown), captions, marks=marks, columns=GRID_COLUMNS)


def write_report(report: dict[str, Any], path: Path) -> None:
    """Write a report as indented JSON, atomically."""
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
