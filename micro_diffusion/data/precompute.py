"""MDS images -> MDS latents and encoded captions, at any number of resolutions in one pass.

Legend: B batch, C latent channels, R resolution in pixels, f downsampling, L caption tokens, D caption width.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from streaming import MDSWriter
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from micro_diffusion.data.convert import HASHES, REJECTS
from micro_diffusion.data.images import ImageDataset, ImageSample
from micro_diffusion.data.output_folder import RECORD, is_prepared, read_record, unfinished, write_record
from micro_diffusion.data.sources.source import Rejected
from micro_diffusion.data.transforms import normalise

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
    encoder = _Encoder(sorted(set(resolutions)), autoencoder, text_encoder, sample=sample, seed=seed)
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


class _Encoder:
    """Batches of pictures to rows, with what is to be known of all of them."""

    def __init__(
        self,
        resolutions: Sequence[int],
        autoencoder: Autoencoder,
        text_encoder: TextEncoder,
        *,
        sample: bool,
        seed: int,
    ) -> None:
        for resolution in resolutions:
            if resolution < 1 or resolution % autoencoder.downsampling:
                raise ValueError(
                    f"resolution {resolution} cannot be encoded; set resolutions to multiples of "
                    f"{autoencoder.downsampling}, the downsampling of {autoencoder.name}"
                )
        if not resolutions:
            raise ValueError("resolutions is empty; set it to at least one number of pixels, such as [256]")
        self.resolutions = list(resolutions)
        self.autoencoder, self.text_encoder, self.sample = autoencoder, text_encoder, sample
        self.generator = torch.Generator().manual_seed(seed)
        self.samples = 0
        self.enlarged: Counter[int] = Counter()
        self._moments = {resolution: np.zeros(3) for resolution in resolutions}  # count, sum, sum of squares

    def description(self) -> dict[str, Any]:
        """The encoders and the form of their results, as `LatentMetadata` reads it."""
        return {
            "resolutions": self.resolutions,
            "autoencoder": self.autoencoder.name,
            "channels": self.autoencoder.channels,
            "downsampling": self.autoencoder.downsampling,
            "text_encoder": self.text_encoder.name,
            "caption_dim": self.text_encoder.dim,
            "caption_length": self.text_encoder.max_length,
        }

    def columns(self) -> dict[str, str]:
        """The columns of MDS latents."""
        cells = {resolution: resolution // self.autoencoder.downsampling for resolution in self.resolutions}
        latents = {f"latents_{r}": f"ndarray:float16:{self.autoencoder.channels},{n},{n}" for r, n in cells.items()}
        tokens = f"ndarray:float16:{self.text_encoder.max_length},{self.text_encoder.dim}"
        return {**latents, "caption_tokens": tokens, "caption_length": "int", "caption": "str", "key": "str"}

    @torch.no_grad()
    def rows(self, batch: Sequence[ImageSample]) -> Iterator[dict[str, Any]]:
        """Encode B pictures and their captions."""
        if not batch:
            return
        columns = {f"latents_{resolution}": self._encode(batch, resolution) for resolution in self.resolutions}
        tokens, lengths = self._encode_captions([item.caption for item in batch])
        for i, item in enumerate(batch):
            text = {"caption_tokens": tokens[i], "caption_length": lengths[i], "caption": item.caption, "key": item.key}
            yield {**{name: column[i] for name, column in columns.items()}, **text}
        self.samples += len(batch)

    def _encode(self, batch: Sequence[ImageSample], resolution: int) -> np.ndarray:
        """(B, C, R/f, R/f) float16."""
        pictures = normalise(torch.stack([item.squares[resolution] for item in batch]))
        latents = self.autoencoder.encode(pictures, generator=self.generator, sample=self.sample).float().cpu()
        stored = _half(latents, f"latents at {resolution} px by the autoencoder {self.autoencoder.name}", batch)
        self.enlarged.update({resolution: sum(item.shorter_side < resolution for item in batch)})
        values = latents.double()
        self._moments[resolution] += (values.numel(), values.sum().item(), values.square().sum().item())
        return stored

    def _encode_captions(self, captions: Sequence[str]) -> tuple[np.ndarray, list[int]]:
        """(B, L, D) float16 and the number of rows of each; equal captions are encoded once."""
        distinct = list(dict.fromkeys(captions))
        tokens, mask = self.text_encoder.encode(distinct)
        places = [distinct.index(caption) for caption in captions]
        stored = _half(tokens.float().cpu(), f"features by the text encoder {self.text_encoder.name}", distinct)
        if mask is None:
            return stored[places], [tokens.shape[1]] * len(captions)
        lengths = mask.sum(dim=1).cpu()
        if not torch.equal(mask.cpu(), torch.arange(mask.shape[1]) < lengths[:, None]):
            raise ValueError(
                f"the mask of {self.text_encoder.name} has gaps; only padding after the caption can be stored"
            )
        return stored[places], [int(lengths[place]) for place in places]

    def latent_std(self) -> dict[str, float]:
        """Standard deviation of all latent entries, by resolution."""
        return {
            str(resolution): float(np.sqrt(squares / count - (total / count) ** 2))
            for resolution, (count, total, squares) in self._moments.items()
        }


def _half(values: Tensor, what: str, batch: Sequence[Any]) -> np.ndarray:
    """float16, as it is stored. Raises ValueError where a number is or becomes non-finite."""
    stored = values.half()
    finite = stored.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        raise ValueError(
            f"the {what} are not finite, first for {batch[int(finite.int().argmin())]!s:.80}; use that encoder in a wider "
            "floating-point type, such as float32"
        )
    return stored.numpy()
