"""A data set of random latents in the sizes of the full recipe, to measure loading.

Legend: L caption tokens, D caption width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from streaming import MDSWriter

from micro_diffusion.data.format.caption_formats import CaptionFeatures
from micro_diffusion.data.format.columns import describe
from micro_diffusion.data.format.latent_formats import EXACT_LATENTS, LatentFormat
from micro_diffusion.data.format.record import write_record
from micro_diffusion.data.format.row_format import RowFormat
from micro_diffusion.data.prepare.parts import HASHES

LENGTH, DIM = 77, 1024  # of a caption encoded by DFN5B-CLIP-ViT-H-14-378
USED = 20  # rows of a caption up to end-of-text
LATENTS = {256: (32, 32), 512: (64, 64)}


def write_latents(
    folder: Path, *, samples: int, captions: CaptionFeatures, latents: LatentFormat = EXACT_LATENTS
) -> Path:
    """A folder of random latents at 256 and 512 px and captions, in the sizes of the full recipe."""
    form = RowFormat(
        latents=latents,
        captions=captions,
        channels=4,
        latent_sizes=LATENTS,
        caption_length=LENGTH,
        caption_dim=DIM,
    )
    draw = np.random.default_rng(0).standard_normal
    row: dict[str, Any] = {}
    for resolution, size in LATENTS.items():
        entries = latents.encode(f"latents_{resolution}", draw((1, 4, *size)).astype(np.float32))
        row |= {name: entry[0] for name, entry in entries.items()}
    tokens = draw((LENGTH, DIM)).astype(np.float16)
    if captions.dtype == "int8":
        tokens = (tokens * 20).astype(np.int8)
        row["caption_scale"] = np.full(LENGTH, 0.05, np.float32)
    row["caption_tokens"] = tokens
    if not captions.padded:
        row |= {name: value[:USED].tobytes() for name, value in row.items() if name.startswith("caption_")}
    with MDSWriter(out=str(folder), columns=form.columns(), hashes=HASHES, size_limit="64mb") as writer:
        for number in range(samples):
            text = {"caption_length": USED, "caption": "a large red circle " * 4, "key": f"{number:09}"}
            writer.write({**row, **text})
    names = {"autoencoder": "random", "text_encoder": "random", "channels": 4, "downsampling": 8}
    form = {"resolutions": list(LATENTS), "caption_dim": DIM, "caption_length": LENGTH, "latent_std": {}}
    formats = {"latent_format": describe(latents), "caption_format": describe(captions)}
    write_record(folder, {}, samples=samples, **names, **form, **formats)
    return folder
