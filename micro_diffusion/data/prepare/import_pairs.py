"""Latents and pooled captions that another program has made -> MDS latents.

Legend: N images, C latent channels, h w latent cells, f downsampling, D caption width.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from tqdm import tqdm

from micro_diffusion.bounds import PositiveFloat, PositiveInt
from micro_diffusion.data.format.caption_formats import EXACT_CAPTIONS, CaptionFeatures
from micro_diffusion.data.format.columns import Entries, describe
from micro_diffusion.data.format.latent_formats import EXACT_LATENTS, LatentFormat
from micro_diffusion.data.format.quantisation import check_finite
from micro_diffusion.data.format.row_format import RowFormat
from micro_diffusion.data.prepare.latent_statistics import LatentStatistics
from micro_diffusion.data.prepare.output_folder import OutputFolder
from micro_diffusion.data.prepare.parts import writing
from micro_diffusion.data.sources.latent_pairs import LatentPairs, Pairs, Shape

log = logging.getLogger(__name__)


def import_pairs(
    *,
    pairs: LatentPairs,
    out: str,
    encoders: Mapping[str, Mapping[str, Any]],
    scaling: PositiveFloat,
    downsampling: PositiveInt,
    caption_dim: PositiveInt,
    latent_format: LatentFormat = EXACT_LATENTS,
    caption_format: CaptionFeatures = EXACT_CAPTIONS,
    part_size: PositiveInt = 1024,
    size_limit: str = "64mb",
) -> None:
    """Write MDS latents with captions of one token, reading a part at a time.

    An interrupted import goes on with the parts that are missing.

    Args:
        pairs: the files; a frozen dataclass.
        out: folder to make, or a URL such as s3://bucket/name. One that holds the same latents, complete, is left
            alone.
        encoders: what made the pairs, as the nodes `autoencoder` and `text_encoder` of a training name them.
        scaling: latents are multiplied by it, since the files hold them as the autoencoder gave them.
        downsampling: f, pixels of a latent cell's side.
        caption_dim: D that the captions should have.
        latent_format: how latents are stored.
        caption_format: how captions are stored.
        part_size: images of a part: what is done again after an interruption.
        size_limit: of a shard file, such as "64mb".

    Raises:
        FileNotFoundError: when a file is missing.
        FileExistsError: when `out` holds something else.
        ValueError: when the files do not fit one another, a number is not finite, or beyond what the format stores.
    """
    shape = pairs.shape()
    if shape.caption_dim != caption_dim:
        raise ValueError(
            f"the captions have width {shape.caption_dim}, not {caption_dim}; set caption_dim={shape.caption_dim} and "
            "encoders.text_encoder to the encoder that made them"
        )
    if not shape.images or part_size < 1:
        raise ValueError(f"{shape.images} images in parts of {part_size}; give at least one of each")
    form = _row_format(shape, downsampling, latent_format, caption_format)
    recipe = {
        "pairs": {"name": type(pairs).__name__, **asdict(pairs)},  # pyright: ignore[reportArgumentType]
        "images": shape.images,
        "scaling": scaling,
        "part_size": part_size,
        "size_limit": size_limit,
        **_description(form, encoders, downsampling),
    }
    with OutputFolder(out, recipe) as folder:
        whole = folder.begin()
        if whole is None:
            return
        parts = 0
        with tqdm(desc=f"import {out}", total=shape.images, unit=" images", mininterval=1) as progress:
            for number, batch in enumerate(pairs.read(part_size)):
                parts += 1
                progress.update(len(batch.captions))
                if number in whole:
                    continue
                with writing(folder.storage, number, columns=form.columns(), size_limit=size_limit) as part:
                    statistics = LatentStatistics()
                    for row in _rows(form, batch, number * part_size, scaling, statistics):
                        part.write(row)
                    part.statistics = statistics.as_json()
        samples, _, counted = folder.merge(parts)
        latent_std = LatentStatistics.merged(counted).std()
        folder.finish(**_description(form, encoders, downsampling), samples=samples, latent_std=latent_std)
    log.info("%s holds the latents of %d images", out, samples)


def _row_format(
    shape: Shape, downsampling: int, latent_format: LatentFormat, caption_format: CaptionFeatures
) -> RowFormat:
    channels, height, width = shape.latent
    return RowFormat(
        latents=latent_format,
        captions=caption_format,
        channels=channels,
        latent_sizes={round((height * width) ** 0.5 * downsampling): (height, width)},
        caption_length=1,
        caption_dim=shape.caption_dim,
    )


def _description(form: RowFormat, encoders: Mapping[str, Mapping[str, Any]], downsampling: int) -> dict[str, Any]:
    """As `LatentMetadata` reads it."""
    names = {kind: str(next(iter(named.values()), "unknown")) for kind, named in encoders.items()}
    return {
        "resolutions": list(form.latent_sizes),
        "latent_sizes": {str(resolution): list(size) for resolution, size in form.latent_sizes.items()},
        "autoencoder": names.get("autoencoder", "unknown"),
        "channels": form.channels,
        "downsampling": downsampling,
        "text_encoder": names.get("text_encoder", "unknown"),
        "caption_dim": form.caption_dim,
        "caption_length": form.caption_length,
        "encoders": {kind: dict(named) for kind, named in encoders.items()},
        "latent_format": describe(form.latents),
        "caption_format": describe(form.captions),
    }


def _rows(
    form: RowFormat, batch: Pairs, start: int, scaling: float, statistics: LatentStatistics
) -> Iterator[dict[str, Any]]:
    """The rows of a part, whose first image is the `start`-th of all."""
    (resolution,) = form.latent_sizes
    keys = [f"{start + i:09}" for i in range(len(batch.captions))]
    latents = torch.from_numpy(batch.latents) * scaling
    features = torch.from_numpy(batch.features)[:, None]
    check_finite(latents, "latents", keys)
    check_finite(features, "captions", keys)
    statistics.add(resolution, latents, enlarged=0)
    columns: dict[str, Entries] = form.latents.encode(f"latents_{resolution}", latents.numpy())
    columns |= form.captions.store(features, [1] * len(keys))  # pyright: ignore[reportAttributeAccessIssue]
    columns |= {"caption": batch.captions, "key": keys}
    for i in range(len(keys)):
        yield {name: column[i] for name, column in columns.items()}
