"""Several folders of MDS latents as one data set, each local or remote."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from micro_diffusion.bounds import NonNegativeFloat, PositiveFloat
from micro_diffusion.data.format.buckets import read_buckets
from micro_diffusion.data.format.metadata import PRECOMPUTE, LatentMetadata
from micro_diffusion.data.stream.caption_choice import CaptionChoice
from micro_diffusion.data.stream.integrity import INDEX, check_folder
from micro_diffusion.data.stream.remote import fetch_buckets, fetch_description
from micro_diffusion.data.stream.shard_stream import ShardStream

_OF_ITS_OWN = ("samples", "resolutions", "latent_sizes", "latent_std", "captions_per_image")
"""What the parts of a mixture need not share."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A folder of MDS latents, and how much of an epoch comes from it.

    Without proportion and repeat each of its samples comes once an epoch.

    Args:
        path: the folder that `scripts/precompute.py` made; where `remote` is set, the one that keeps its copies.
        remote: URL of the data, such as s3://bucket/latents; None where they are in `path`.
        proportion: share of the epoch's samples, relative to the other parts, which then all need one.
        repeat: how often each sample comes in an epoch; 0.5 is half of them.
        caption_probabilities: of an image's captions in their order, to be the one that is drawn; None is all alike.

    Raises:
        ValueError: when both are set.
    """

    path: str
    remote: str | None = None
    proportion: PositiveFloat | None = None
    repeat: PositiveFloat | None = None
    caption_probabilities: Sequence[NonNegativeFloat] | None = None

    def __post_init__(self) -> None:
        if self.proportion is not None and self.repeat is not None:
            raise ValueError(f"{self.path} has both a proportion and a repeat; set one of them to null")
        if "://" in self.path:
            raise ValueError(f"path is the address {self.path}; set remote to it and path to a local folder for copies")

    @property
    def folder(self) -> Path:
        """The local folder."""
        return Path(self.path).expanduser()

    def buckets(self) -> list[Part]:
        """The data sets of a folder that holds one for each aspect ratio, which share its proportion; else itself.

        Raises:
            ValueError: when the folder does not say properly which it holds.
        """
        if self.remote is not None:
            fetch_buckets(self.remote, self.folder)
        samples = read_buckets(self.folder)
        if samples is None:
            return [self]
        total = sum(samples.values())
        return [
            replace(
                self,
                path=str(self.folder / name),
                remote=None if self.remote is None else f"{self.remote.rstrip('/')}/{name}",
                proportion=None if self.proportion is None else self.proportion * count / total,
            )
            for name, count in samples.items()
        ]

    def open(self) -> LatentMetadata:
        """Check the folder, or fetch what describes the remote one.

        Raises:
            FileNotFoundError: when data are missing; the message names the command to make them.
            ValueError: when a shard was cut short, or the remote cannot be read or is another data set than the copies.
        """
        if self.remote is not None:
            fetch_description(self.remote, self.folder)
            return LatentMetadata.read(self.folder)
        samples = check_folder(self.folder, command=PRECOMPUTE)
        metadata = LatentMetadata.read(self.folder)
        if metadata.samples != samples:
            raise ValueError(
                f"{self.path} holds {samples} samples, but its record says {metadata.samples}; make it again"
            )
        return metadata

    def caption_choice(self, metadata: LatentMetadata, seed: int) -> CaptionChoice:
        """Which caption of a sample is drawn.

        Raises:
            ValueError: when the data do not have as many captions.
        """
        held = metadata.captions_per_image
        try:
            return CaptionChoice(self.caption_probabilities, captions_per_image=held, seed=seed)
        except ValueError as error:
            raise ValueError(f"for {self.path}, {error}") from error

    def stream(self, *, verify: bool, keep_zip: bool) -> ShardStream:
        """The part as the streaming library takes it."""
        return ShardStream(
            verify=verify,
            local=str(self.folder),
            remote=self.remote,
            proportion=self.proportion,
            repeat=self.repeat,
            keep_zip=keep_zip,
        )


def check_weights(parts: Sequence[Part]) -> None:
    """Raise ValueError when there are no parts, two have one folder, or only some have a proportion."""
    if not parts:
        raise ValueError("there are no data; set path to a folder of latents, or choose a mixture")
    folders = [os.path.abspath(part.folder) for part in parts]
    if len(set(folders)) < len(folders):
        twice = next(folder for folder in folders if folders.count(folder) > 1)
        raise ValueError(f"{twice} is in the mixture twice; name it once, with repeat for more of it")
    without = [part.path for part in parts if part.proportion is None]
    if 0 < len(without) < len(parts):
        raise ValueError(f"{without[0]} has no proportion, but other parts of the mixture have; set it for all or none")


def identity(parts: Sequence[Part], held: Sequence[LatentMetadata]) -> str:
    """What tells the data of some folders from others, wherever they are: of each, its samples and its index's digest.

    The index holds the hashes of all shards.
    """
    digests = [hashlib.sha256((part.folder / INDEX).read_bytes()).hexdigest()[:16] for part in parts]
    each = zip(held, digests, strict=True)
    return ", ".join(f"{metadata.samples} samples of index {digest}" for metadata, digest in each)


def common_metadata(parts: Sequence[Part], held: Sequence[LatentMetadata], resolution: int) -> LatentMetadata:
    """The metadata of a mixture at one resolution; the sizes of its latents are those of the first part.

    Raises:
        ValueError: when a part has no latents of that resolution, or another value than the first.
    """
    first = held[0]
    shared = [entry.name for entry in fields(LatentMetadata) if entry.name not in _OF_ITS_OWN]
    for part, metadata in zip(parts, held, strict=True):
        values = {name: (getattr(first, name), getattr(metadata, name)) for name in shared}
        metadata.latent_size(resolution)
        for name, (ours, theirs) in values.items():
            if ours != theirs:
                raise ValueError(
                    f"{parts[0].path} has {name} {ours}, but {part.path} has {theirs}; precompute both in the same way"
                )
    return replace(first, samples=sum(metadata.samples for metadata in held))
