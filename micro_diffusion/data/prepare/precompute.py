"""MDS images -> MDS latents and encoded captions, at any number of resolutions in one pass.

Legend: C latent channels, R resolution in pixels, f downsampling, L caption tokens, D caption width.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import xxhash
from tqdm import tqdm

from micro_diffusion.bounds import NonNegativeInt, PositiveInt, Seed
from micro_diffusion.data.format.caption_formats import EXACT_CAPTIONS, CaptionFormat
from micro_diffusion.data.format.latent_formats import EXACT_LATENTS, LatentFormat
from micro_diffusion.data.format.record import RECORD, read_record
from micro_diffusion.data.image.crops import AspectRatioBuckets, CentreSquare, Crop
from micro_diffusion.data.prepare import ranks
from micro_diffusion.data.prepare.bucket_folder import BucketFolder
from micro_diffusion.data.prepare.class_names import class_names
from micro_diffusion.data.prepare.encoding import LatentEncoder
from micro_diffusion.data.prepare.fingerprint import Fingerprint
from micro_diffusion.data.prepare.latent_statistics import LatentStatistics
from micro_diffusion.data.prepare.output_folder import REJECTS, SOURCE_FILES, OutputFolder
from micro_diffusion.data.prepare.parts import writing
from micro_diffusion.data.sources.source import Rejected
from micro_diffusion.data.stream.images import Batches, ImageDataset, ImageSample, decoded, runs
from micro_diffusion.data.stream.integrity import INDEX
from micro_diffusion.machine.tensor_memory import keep_freed_memory
from micro_diffusion.machine.threads import yield_when_busy
from micro_diffusion.text.classes import ClassEncoder

if TYPE_CHECKING:
    from micro_diffusion.autoencoder.autoencoder import Autoencoder
    from micro_diffusion.text.encoder import TextEncoder

log = logging.getLogger(__name__)


class NoImages(ValueError):
    """Not one image of a folder can be used."""


def precompute(
    *,
    images: str | Path,
    out: str | Path,
    resolutions: Sequence[PositiveInt],
    autoencoder: Autoencoder,
    text_encoder: TextEncoder,
    crop: Crop | AspectRatioBuckets | None = None,
    latent_format: LatentFormat = EXACT_LATENTS,
    caption_format: CaptionFormat = EXACT_CAPTIONS,
    device: str | None = None,
    batch_size: PositiveInt = 64,
    sample: bool = True,
    seed: Seed = 0,
    workers: NonNegativeInt = 0,
    part_size: PositiveInt = 1024,
    size_limit: str = "64mb",
    update: bool = False,
) -> int:
    """Encode every image at every resolution, and every caption once.

    A row of the result holds `latents_R` (C, H/f, W/f) for each resolution R, a crop of H×W pixels, already shifted and
    scaled by the autoencoder, the caption's features (L, D) or token ids (L), `caption_length` (rows up to and
    including end-of-text), `caption` and `key`; of further captions the same, named as `RowFormat` says. Images that
    cannot be decoded are left out, counted, and listed in `rejects.jsonl`.

    Under a launcher, within `ranks.joined`, all ranks share the parts, and rank 0 puts them together. The result does
    not depend on the number of ranks. An interrupted job goes on with the parts that are missing.

    Args:
        images: folder of MDS images.
        out: folder to make, or a URL such as s3://bucket/name. One that holds the same latents, complete, is left
            alone.
        resolutions: sides in pixels of the squares that are encoded, or of squares of the same area.
        autoencoder: gives the latents.
        text_encoder: gives the caption's features; the names of a `ClassEncoder` without any are the images' captions.
        crop: which part of each image is encoded; None for the square in its middle. `AspectRatioBuckets` make a folder
            for each shape that images have, below `out`, and list them there.
        latent_format: how latents are stored.
        caption_format: how captions are stored.
        device: where both encoders work, in torch's words; None for the GPU of this rank where torch finds one, or else
            the CPU.
        batch_size: images encoded at a time.
        sample: draw latents from the posterior rather than take its mean.
        seed: of those draws.
        workers: processes of each rank that decode images; 0 decodes in this one.
        part_size: images of a part, which one rank does: what is done again after an interruption.
        size_limit: of a shard file, such as "64mb".
        update: whether to encode again, in a complete local folder, the parts whose images have changed since.

    Returns:
        The number of samples.

    Raises:
        FileNotFoundError: when `images` is missing or incomplete.
        FileExistsError: when `out` holds something else, or the images have changed since and `update` is not set.
        BlockingIOError: when another job is making `out`.
        ValueError: when `images` is a URL, there is no such device, a resolution is no multiple of the downsampling, or
            an encoder gives non-finite numbers.
    """
    if "://" in str(images):
        raise ValueError(f"images is the address {images}; copy it to a local folder first")
    if isinstance(crop, AspectRatioBuckets):
        return _precompute_buckets(
            out,
            crop,
            images=images,
            resolutions=resolutions,
            autoencoder=autoencoder,
            text_encoder=text_encoder,
            latent_format=latent_format,
            caption_format=caption_format,
            device=device,
            batch_size=batch_size,
            sample=sample,
            seed=seed,
            workers=workers,
            part_size=part_size,
            size_limit=size_limit,
            update=update,
        )
    images, cut = Path(images).expanduser(), crop or CentreSquare()
    sizes = {resolution: cut.size(resolution) for resolution in sorted(set(resolutions))}
    formats = {"latent_format": latent_format, "caption_format": caption_format}
    dataset = ImageDataset(path=images, resolutions=list(sizes), cut=cut)
    if isinstance(text_encoder, ClassEncoder) and not text_encoder.is_complete:
        text_encoder = ClassEncoder(names=class_names(dataset.rows))
    encoder = LatentEncoder(
        sizes,
        autoencoder,
        text_encoder,
        **formats,
        captions_per_image=dataset.captions_per_image,
        sample=sample,
        seed=seed,
    )
    parts = runs(len(dataset), part_size)
    made_from = Fingerprint.of_shards(images / INDEX, parts)
    recipe = {
        **_recipe_of_images(images),
        SOURCE_FILES: made_from.digest,
        "sample": sample,
        "seed": seed,
        "crop": _described(cut),
        "part_size": part_size,
        "size_limit": size_limit,
        **encoder.description(),
    }
    renew = partial(_renewed, recipe=recipe)
    with OutputFolder(out, recipe, renew=renew, made_from=made_from, update=update) as folder:
        whole = ranks.first_decides(folder.begin)
        if whole is None:
            return ranks.first_decides(folder.samples)
        _move_to(device, autoencoder, text_encoder)
        missing = [number for number in range(len(parts)) if number not in whole]
        mine = {number: parts[number] for number in missing[ranks.rank() :: ranks.count()]}
        batches = decoded(dataset, mine, batch_size=batch_size, workers=workers)
        images_of_mine = sum(map(len, mine.values()))
        _encode(folder, encoder, batches, images=images_of_mine, size_limit=size_limit, made_from=made_from.parts)
        ranks.wait_for_all()
        return ranks.first_decides(lambda: _finish(folder, len(parts), encoder))


def _precompute_buckets(out: str | Path, crop: AspectRatioBuckets, **settings: Any) -> int:
    """A data set for each aspect ratio that images have, and the list of them; the number of samples of all."""
    buckets = crop.buckets()
    folder = BucketFolder(out, list(buckets))
    ranks.first_decides(folder.check)
    samples = dict.fromkeys(buckets, 0)
    for name, cut in buckets.items():
        try:
            samples[name] = precompute(out=folder.place(name), crop=cut, **settings)
        except NoImages:
            log.info("no image is nearest to %s", cut.ratio)
    if not any(samples.values()):
        raise NoImages(f"no image can be used at any of {', '.join(crop.ratios)}; make the folder of images again")
    ranks.first_decides(lambda: folder.finish(samples))
    return sum(samples.values())


def _renewed(made: Mapping[str, Any], *, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """A recipe in today's terms; earlier versions recorded no digest of each part, and before no index either."""
    recent = {"images_index": recipe["images_index"], **made}
    same = recent["images_index"] == recipe["images_index"]
    return {SOURCE_FILES: recipe[SOURCE_FILES] if same else "", **recent}


def _recipe_of_images(images: Path) -> dict[str, Any]:
    """How the images were made, or their folder where another program has made it; and which they are."""
    made: Any = str(images)
    if (images / RECORD).is_file():
        record = read_record(images)
        if "recipe" not in record:
            raise ValueError(f"{images / RECORD} lacks the recipe of the images; make the folder again")
        made = {name: value for name, value in record["recipe"].items() if name != SOURCE_FILES}
    # the index has the hashes of the shards
    return {"images": made, "images_index": xxhash.xxh64_hexdigest((images / INDEX).read_bytes())}


def _move_to(device: str | None, *encoders: Autoencoder | TextEncoder) -> None:
    """Bring the encoders to where they work."""
    gpus = torch.cuda.device_count()
    try:
        place = torch.device(device or ("cuda" if gpus else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"device is {device!r}, which torch does not know; set it to cuda, cuda:1 or cpu") from error
    if place.type == "cuda" and (place.index or 0) >= gpus:
        raise ValueError(f"device is {device}, but torch finds {gpus} GPUs; set it to one that is there, or to cpu")
    keep_freed_memory(place.type)
    yield_when_busy(place.type)
    for encoder in encoders:
        encoder.to(place)
    name = (
        torch.cuda.get_device_name(place) if place.type == "cuda" else f"the CPU with {torch.get_num_threads()} threads"
    )
    log.info("%s encode on %s", " and ".join(encoder.name for encoder in encoders), name)


def _encode(
    folder: OutputFolder,
    encoder: LatentEncoder,
    batches: Batches,
    *,
    images: int,
    size_limit: str,
    made_from: Sequence[str],
) -> None:
    """Write the parts that the batches belong to, with a bar that counts their images."""
    with tqdm(desc=f"precompute {folder.out}", total=images, unit=" images", mininterval=1) as progress:
        for count in _write(folder, encoder, batches, size_limit, made_from):
            progress.update(count)


def _write(
    folder: OutputFolder, encoder: LatentEncoder, batches: Batches, size_limit: str, made_from: Sequence[str]
) -> Iterator[int]:
    """Write the parts that the batches belong to; the number of images of each batch as it is done."""
    for number, of_part in groupby(batches, key=itemgetter(0)):
        statistics = LatentStatistics()
        with writing(folder.storage, number, columns=encoder.columns(), size_limit=size_limit) as part:
            for _, batch in of_part:
                statistics.other_shapes += batch.count(None)
                for row in _rows(encoder, batch, statistics):
                    part.write(row)
                yield len(batch)
            part.statistics, part.made_from = statistics.as_json(), made_from[int(number)]


def _finish(folder: OutputFolder, parts: int, encoder: LatentEncoder) -> int:
    """Put the parts together and say what they hold; the number of samples."""
    samples, rejected, counted = folder.merge(parts)
    statistics = LatentStatistics.merged(counted)
    if not samples:
        left = folder.discard()
        unused = {**rejected, "another shape": statistics.other_shapes}
        reasons = "; ".join(f"{reason}: {count}" for reason, count in unused.items() if count)
        raise NoImages(f"no image can be used ({reasons}); make the folder of images again, or set another crop{left}")
    folder.finish(
        **encoder.description(),
        captions_per_image=encoder.row_format.captions_per_image,
        samples=samples,
        latent_std=statistics.std(),
        enlarged=dict(statistics.enlarged),
        other_shapes=statistics.other_shapes,
        rejected=dict(rejected),
    )
    log.info("%s holds the latents of %d images", folder.out, samples)
    if statistics.other_shapes:
        log.info("%d images of other shapes are left to other data sets", statistics.other_shapes)
    for reason, count in rejected.most_common():
        log.warning("left out %d: %s (listed in %s/%s)", count, reason, folder.out, REJECTS)
    for resolution, count in statistics.enlarged.items():
        log.warning("%d images were smaller than %s px and have been enlarged", count, resolution)
    return samples


def _described(crop: Crop) -> dict[str, Any]:
    """A crop and its settings, for the recipe."""
    assert is_dataclass(crop), f"{crop!r} is no dataclass"
    return {"name": type(crop).__name__, **asdict(crop)}


def _rows(
    encoder: LatentEncoder, batch: Iterable[ImageSample | Rejected | None], statistics: LatentStatistics
) -> Iterator[dict | Rejected]:
    """The rows of a batch, after the images of it that are rejected."""
    yield from (item for item in batch if isinstance(item, Rejected))
    yield from encoder.rows([item for item in batch if isinstance(item, ImageSample)], statistics)
