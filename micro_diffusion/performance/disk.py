"""Bytes of a data set of latents, before it is made. Legend: B captions, L tokens, D width."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from micro_diffusion.batch import TokenIds
from micro_diffusion.condition import Condition
from micro_diffusion.data.format.caption_formats import CaptionFormat
from micro_diffusion.data.format.latent_formats import LatentFormat
from micro_diffusion.data.format.record import RECORD
from micro_diffusion.data.format.row_format import RowFormat
from micro_diffusion.data.prepare.description import bytes_per_row
from micro_diffusion.performance.loading import bytes_per_sample
from micro_diffusion.performance.storage import columns_of

ROWS = 64
"""Rows that are written to see how long they are; together they have one header, as the hundreds of a shard have."""


class DataSize(NamedTuple):
    """images: of the data set. each: bytes of one. basis: where that is known from, as part of a sentence."""

    images: int
    each: float
    basis: str

    @property
    def total(self) -> float:
        """Bytes of the data set."""
        return self.images * self.each

    def __str__(self) -> str:
        return f"{self.total / 1e9:,.0f} GB for {self.images:,} images, {self.each:,.0f} bytes each ({self.basis})"


class BlankCaptions:
    """A text encoder that gives every caption the same number of tokens, each of ones.

    Args:
        dim: D.
        max_length: L.
        tokens: of each caption, end-of-text included; at most L.
    """

    name = "blank"

    def __init__(self, *, dim: int, max_length: int, tokens: int) -> None:
        self.provenance: dict[str, Any] = {}
        self.dim, self.max_length, self.tokens = dim, max_length, min(tokens, max_length)

    def encode(self, captions: Sequence[str]) -> Condition:
        """B captions -> tokens (B, L, D) and mask (B, L)."""
        return self.encode_ids(self.tokenize(captions))

    def tokenize(self, captions: Sequence[str]) -> TokenIds:
        """B captions -> ids and mask (B, L)."""
        mask = (torch.arange(self.max_length) < self.tokens).expand(len(captions), -1)
        return TokenIds(torch.ones(mask.shape, dtype=torch.long), mask)

    def encode_ids(self, text: TokenIds) -> Condition:
        """ids and mask (B, L) -> tokens (B, L, D) and the mask."""
        return Condition(torch.ones(*text.mask.shape, self.dim), text.mask)

    def to(self, device: torch.device) -> None:
        """There are no weights to move."""


def data_size(
    stages: Sequence[DictConfig],
    *,
    configs: Path,
    images: int,
    latents: str | None,
    captions: str | None,
    tokens: int,
) -> DataSize:
    """What the images of the stages need on the disk.

    Args:
        stages: training configurations.
        configs: folder of the configurations.
        images: of the data set.
        latents: option of configs/latent_format; None as for `captions`.
        captions: option of configs/caption_format; with None for both, an image takes what one takes in the folder
            that the first stage trains on, and where there is none yet, float16 is meant.
        tokens: of a caption, of which formats up to end-of-text store no more.
    """
    folder = stages[0].train_loader.path
    is_free = latents is None and captions is None
    if is_free and folder is not None and (Path(folder) / RECORD).is_file():
        return DataSize(images, bytes_per_sample(Path(folder)), f"as in {folder}")
    latents, captions = latents or "float16", captions or "float16"
    each = written_bytes(stages, *named_formats(configs, latents, captions), tokens=tokens)
    return DataSize(images, each, f"latents as {latents}, captions of {tokens} tokens as {captions}")


def named_formats(configs: Path, latents: str, captions: str) -> tuple[LatentFormat, CaptionFormat]:
    """The options of configs/latent_format and configs/caption_format.

    Raises:
        ValueError: when there is no such option; lists those that exist.
    """
    chosen = {"latent_format": latents, "caption_format": captions}
    for group, option in chosen.items():
        if not (configs / group / f"{option}.yaml").is_file():
            there = ", ".join(sorted(path.stem for path in (configs / group).glob("*.yaml")))
            raise ValueError(f"there is no {group} {option} in {configs}; choose one of {there or 'none'}")
    with initialize_config_dir(str(configs.resolve()), version_base="1.3"):
        config = compose("precompute", overrides=[f"{group}={option}" for group, option in chosen.items()])
    return instantiate(config.latent_format), instantiate(config.caption_format)


def written_bytes(
    stages: Sequence[DictConfig], latents: LatentFormat, captions: CaptionFormat, *, tokens: int
) -> float:
    """Bytes of a row with the latents of every resolution of the stages, found by writing some.

    Args:
        stages: training configurations.
        latents: how latents are stored.
        captions: how captions are stored.
        tokens: of each caption, of which formats up to end-of-text store no more.
    """
    sides = {config.resolution: config.backbone.input_size for config in stages}
    channels, text = stages[0].backbone.in_channels, stages[0].text_encoder
    form = RowFormat(
        latents=latents,
        captions=captions,
        channels=channels,
        latent_sizes={resolution: (side, side) for resolution, side in sides.items()},
        caption_length=text.max_length,
        caption_dim=text.dim,
    )
    blank = BlankCaptions(dim=text.dim, max_length=text.max_length, tokens=tokens)
    values = {resolution: torch.ones(ROWS, channels, side, side) for resolution, side in sides.items()}
    columns = columns_of(form, values, blank, [" ".join(["word"] * tokens)] * ROWS)
    return bytes_per_row(form.columns(), columns)
