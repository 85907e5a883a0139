"""A judge of classes that needs no download: a small network that learns to tell the real images' classes apart.

It learns from the training's images and is examined on held-out ones, so that its own accuracy is known; what it says
of generated images cannot be more exact than that. Its features give a Fréchet distance too (Heusel et al. 2017, arXiv
1706.08500, eq. 6), which compares with other distances by the same judge alone.

Legend: B images, K classes, F features.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from micro_diffusion.data.image.transforms import normalise

FEATURES = 64
LARGEST_SIDE = 64
"""Larger images are brought down to this, pixels."""
SHIFT = 4
"""Of the images that it learns from, at most so many pixels in each direction."""


class LabelledImages(NamedTuple):
    """images: uint8 (B, 3, H, H). classes: numbers (B,)."""

    images: Tensor
    classes: Tensor


class ClassJudge(nn.Module):
    """A convolutional network of three halvings.

    Args:
        classes: K.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = [3, 16, 32, FEATURES]
        blocks = [
            [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.SiLU(), nn.AvgPool2d(2)]
            for before, after in itertools.pairwise(widths)
        ]
        self.body = nn.Sequential(*(layer for block in blocks for layer in block))
        self.head = nn.Linear(FEATURES, classes)

    def features(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, H) -> (B, F): the largest value of each feature map, wherever it is in the image."""
        if images.shape[-1] > LARGEST_SIDE:
            images = functional.interpolate(images.float(), size=LARGEST_SIDE, mode="area")
        return self.body(normalise(images)).amax(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, H) -> logits (B, K)."""
        return self.head(self.features(images))


def train_judge(
    data: LabelledImages, *, classes: int, steps: int = 600, batch_size: int = 64, seed: int = 0
) -> ClassJudge:
    """A judge that has learned the classes of real images, in `eval` mode; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = ClassJudge(classes)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=3e-3, weight_decay=0.01)
    falling = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(data.images), (batch_size,), generator=generator)
        across, down = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=generator).tolist()
        images = _shifted(data.images[chosen], across, down)
        functional.cross_entropy(judge(images), data.classes[chosen]).backward()
        optimizer.step()
        falling.step()
        optimizer.zero_grad()
    return judge.eval()


def _shifted(images: Tensor, across: int, down: int) -> Tensor:
    """Moved by whole pixels; the border is repeated where something comes in."""
    room = functional.pad(images.float(), (SHIFT,) * 4, mode="replicate").to(torch.uint8)
    height, width = images.shape[-2:]
    return room[:, :, SHIFT + down : SHIFT + down + height, SHIFT + across : SHIFT + across + width]


class Verdicts(NamedTuple):
    """classes: what the judge takes images for, (B,). features: (B, F)."""

    classes: Tensor
    features: Tensor


@torch.no_grad()
def verdicts(judge: ClassJudge, images: Tensor, *, batch_size: int = 256) -> Verdicts:
    """Of images uint8 (B, 3, H, H)."""
    features = torch.cat([judge.features(part) for part in images.split(batch_size)])
    return Verdicts(judge.head(features).argmax(dim=1), features)


def accuracies(found: Tensor, wanted: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Share of images of each class, by its name, that the judge takes for it; classes without images are left out."""
    right = (found == wanted).double()
    return {
        name: float(right[wanted == number].mean())
        for number, name in enumerate(names)
        if bool((wanted == number).any())
    }
