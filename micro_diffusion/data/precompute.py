"""MDS images -> MDS latents and encoded captions, at any number of resolutions in one pass.

Legend: C latent channels, R resolution in pixels, f downsampling, L caption tokens, D caption width.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from streaming import MDSWriter
from torch.utils.data import DataLoader
from tqdm import tqdm

from micro_diffusion.data.convert import HASHES, REJECTS
from micro_diffusion.data.encoding import LatentEncoder
from micro_diffusion.data.images import ImageDataset, ImageSample
from micro_diffusion.data.output_folder import RECORD, is_prepared, read_record, unfinished, write_record
from micro_diffusion.data.sources.source import Rejected

if TYPE_CHECKING:
    from micro_diffusion.autoencoder.autoencoder import Autoencoder
    from micro_diffusion.text.encoder import TextEncoder

log = logging.getLogger(__name__)


def precompute(
    *,
    images: str | Path,
    out: str | Path,
    resolutions: Sequence[int],
    autoencoder: Autoencoder,
    text_encoder: TextEncoder,
    batch_size: int = 64,
    sample: bool = True,
    seed: int = 0,
    workers: int = 0,
    size_limit: str = "64mb",
) -> None:
    """Encode every picture at every resolution, and every caption once.

    A row of the result holds `latents_R` (C, R/f, R/f) float16 for each resolution R, already shifted and scaled by
    the autoencoder, `caption_tokens` (L, D) float16, `caption_length` (rows up to and including end-of-text),
    `caption` and `key`. Pictures that cannot be decoded are left out, counted, and listed in `rejects.jsonl`.

    Args:
        images: folder of MDS images.
        out: folder to make. One that holds the same latents, complete, is left alone.
        resolutions: sides in pixels to which the centre square of each picture is resized.
        autoencoder: gives the latents.
        text_encoder: gives the caption's features.
        batch_size: pictures encoded at a time.
        sample: draw latents from the posterior rather than take its mean.
        seed: of those draws.
        workers: processes that decode pictures; 0 decodes in this one.
        size_limit: of a shard file, such as "64mb".

    Raises:
        FileNotFoundError: when `images` is missing or incomplete.
        FileExistsError: when `out` holds something else.
        ValueError: when a resolution is no multiple of the downsampling, or an encoder gives non-finite numbers.
    """
    images, out = Path(images).expanduser(), Path(out).expanduser()
    encoder = LatentEncoder(sorted(set(resolutions)), autoencoder, text_encoder, sample=sample, seed=seed)
    dataset = ImageDataset(path=images, resolutions=encoder.resolutions)
    made = read_record(images)["recipe"] if (images / RECORD).is_file() else str(images)
    recipe = {"images": made, "sample": sample, "seed": seed, **encoder.description()}
    if is_prepared(out, recipe):
        return
    loader = DataLoader(dataset, batch_size=batch_size, num_workers=workers, collate_fn=list)
    rejected: Counter[str] = Counter()
    with unfinished(out) as folder:
        with (
            MDSWriter(out=str(folder), columns=encoder.columns(), hashes=HASHES, size_limit=size_limit) as writer,
            (folder / REJECTS).open("w", encoding="utf-8") as rejects,
            tqdm(desc=f"precompute {out}", total=len(dataset), unit=" pictures", mininterval=1) as progress,
        ):
            for batch in loader:
                for item in batch:
                    if isinstance(item, Rejected):
                        rejected[item.reason] += 1
                        rejects.write(json.dumps(item._asdict(), ensure_ascii=False) + "\n")
                for row in encoder.rows([item for item in batch if isinstance(item, ImageSample)]):
                    writer.write(row)
                progress.update(len(batch))
        if not encoder.samples:
            raise ValueError(f"no picture of {images} can be decoded; make the folder again")
        statistics = {
            "samples": encoder.samples,
            "latent_std": encoder.latent_std(),
            "enlarged": dict(encoder.enlarged),
        }
        write_record(folder, recipe, **encoder.description(), **statistics, rejected=dict(rejected))
    log.info("%s holds the latents of %d pictures", out, encoder.samples)
    for reason, count in rejected.most_common():
        log.warning("left out %d pictures: %s (listed in %s)", count, reason, out / REJECTS)
    for resolution, count in sorted(encoder.enlarged.items()):
        log.warning("%d pictures were smaller than %d px and have been enlarged", count, resolution)
