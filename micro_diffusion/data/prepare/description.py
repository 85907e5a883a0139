"""What a folder of MDS images or MDS latents holds, in numbers. Legend: C latent channels, R resolution in pixels."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from streaming import LocalDataset, MDSWriter
from streaming.base.format.mds import MDSReader
from torch import Tensor

from micro_diffusion.batch import LatentBatch
from micro_diffusion.data.format.columns import Entries, text_column
from micro_diffusion.data.format.metadata import PRECOMPUTE, LatentMetadata
from micro_diffusion.data.image.open_image import UnreadableImage, read_image
from micro_diffusion.data.image.transforms import crop, to_tensor
from micro_diffusion.data.prepare.preparation import COLUMNS
from micro_diffusion.data.stream.column_reader import ColumnReader, shard_path
from micro_diffusion.data.stream.integrity import check_folder

CHUNK = 256
SHOWN_CAPTIONS = 10
OPTIONAL = {"further_captions"}
"""Columns of MDS images that shards of earlier versions lack."""

Rows = Mapping[str, Sequence[bytes]]
"""The bytes of columns, an entry for each row."""


class DataFolder:
    """Evenly spaced rows of a folder of MDS images or latents.

    Args:
        path: the folder.
        count: of the rows that are looked at; fewer when there are not as many.

    Raises:
        FileNotFoundError: when the folder is missing or incomplete.
        ValueError: when it holds neither images nor latents, or columns are missing.
    """

    def __init__(self, path: str | Path, *, count: int) -> None:
        self.path = Path(path).expanduser()
        check_folder(self.path, command=PRECOMPUTE)
        self.rows = LocalDataset(str(self.path))
        self.columns = list(dict.fromkeys(name for shard in self._shards for name in shard.column_names))
        self.holds_images = "image" in self.columns
        if not self.holds_images and not any(name.startswith("latents_") for name in self.columns):
            raise ValueError(f"{self.path} holds {', '.join(self.columns)}, neither images nor latents; name another")
        needed = COLUMNS.keys() - OPTIONAL if self.holds_images else self.columns
        for shard in self._shards:
            if absent := set(needed).difference(shard.column_names):
                raise ValueError(f"{shard_path(shard)} lacks the column {min(absent)}; make the data folder again")
        self.metadata = None if self.holds_images else LatentMetadata.read(self.path)
        self.places = np.unique(np.linspace(0, len(self.rows) - 1, min(count, len(self.rows))).round().astype(int))

    def describe(self) -> dict[str, Any]:
        """Everything that is known of the rows, as JSON values."""
        sizes: Counter[str] = Counter()
        captions: list[tuple[str, ...]] = []
        for rows in self._chunks(self.places):
            sizes.update({name: sum(map(len, entries)) for name, entries in rows.items()})
            captions += self._captions(rows)
        if len(numbers := {len(texts) for texts in captions}) > 1:
            raise ValueError(
                f"images of {self.path} have {' or '.join(map(str, sorted(numbers)))} captions; make the data folder "
                "again, with as many for each"
            )
        shown = captions[:: max(1, len(captions) // SHOWN_CAPTIONS)][:SHOWN_CAPTIONS]
        return {
            "path": str(self.path),
            "holds": "images" if self.holds_images else "latents",
            "samples": len(self.rows),
            "looked_at": len(self.places),
            "bytes_per_sample": {name: size / len(self.places) for name, size in sizes.items()},
            "captions_per_image": len(captions[0]),
            **_numbered("words", [[len(text.split()) for text in texts] for texts in zip(*captions, strict=True)]),
            "captions": [text for texts in shown for text in texts],
            **(self._images() if self.holds_images else self._latents()),
        }

    def images(self, count: int, resolution: int) -> tuple[Tensor, list[str]]:
        """Some of the images as uint8 (N, 3, R, R), and their captions."""
        rows = self._some(count)
        squares = []
        for content, key in zip(rows["image"], text_column(rows["key"]), strict=True):
            try:
                squares.append(to_tensor(crop(read_image(content).rgb, (resolution, resolution))))
            except UnreadableImage as error:
                raise ValueError(f"image {key} of {self.path}: {error}; make the data folder again") from error
        return torch.stack(squares), text_column(rows["caption"])

    def latents(self, count: int) -> tuple[Tensor, list[str]]:
        """Some of the latents at the lowest resolution (N, C, R/f, R/f), and their captions."""
        assert self.metadata is not None
        first, *_ = self._batches(self._some(count), self.metadata.resolutions[0])
        return first["latents"], first["caption"]

    @property
    def _shards(self) -> list[MDSReader]:
        return self.rows.shards  # pyright: ignore[reportReturnType]

    def _captions(self, rows: Rows) -> list[tuple[str, ...]]:
        """All captions of each row."""
        if self.metadata is None:
            further = [json.loads(texts or "[]") for texts in rows.get("further_captions", [b""] * len(rows["key"]))]
            return [(first, *others) for first, others in zip(text_column(rows["caption"]), further, strict=True)]
        each = [batch["caption"] for batch in self._batches(rows, self.metadata.resolutions[0])]
        return list(zip(*each, strict=True))

    def _batches(self, rows: Rows, resolution: int) -> list[LatentBatch]:
        """Rows of latents with their first captions, with their second ones and so on."""
        assert self.metadata is not None
        form = self.metadata.row_format
        names = [form.trained_columns(resolution, caption) for caption in range(form.captions_per_image)]
        return [form.batch({known: rows[name] for name, known in each.items()}, resolution) for each in names]

    def _images(self) -> dict[str, Any]:
        """Sizes and aspect ratios of the images."""
        sides = [
            (int.from_bytes(width, "little"), int.from_bytes(height, "little"))
            for rows in self._chunks(self.places)
            for width, height in zip(rows["width"], rows["height"], strict=True)
        ]
        powers = [2 ** int(np.log2(min(pair))) for pair in sides]
        return {
            "shorter_side": _spread([min(pair) for pair in sides]),
            "shorter_side_histogram": {f"{p}-{2 * p - 1}": n for p, n in sorted(Counter(powers).items())},
            "aspect_histogram": _ordered(Counter(round(width / height, 1) for width, height in sides)),
        }

    def _latents(self) -> dict[str, Any]:
        """Moments of the latents and lengths of the captions."""
        assert self.metadata is not None
        moments: dict[int, list[Tensor]] = defaultdict(list)  # count, sums and sums of squares (3, C)
        lengths: list[list[int]] = [[] for _ in range(self.metadata.captions_per_image)]
        for rows in self._chunks(self.places):
            for resolution in self.metadata.resolutions:
                first, *_ = batches = self._batches(rows, resolution)
                values = first["latents"].double().transpose(0, 1).flatten(1)
                counted = torch.full((len(values),), values.shape[1], dtype=torch.float64)
                moments[resolution].append(torch.stack([counted, values.sum(1), values.square().sum(1)]))
            for known, batch in zip(lengths, batches, strict=True):
                known += batch["caption_mask"].sum(dim=1).tolist()
        every = list(itertools.chain(*lengths))
        return {
            "autoencoder": self.metadata.autoencoder,
            "text_encoder": self.metadata.text_encoder,
            "latent_format": self.metadata.latent_format,
            "caption_format": self.metadata.caption_format,
            **_numbered("tokens", lengths),
            "captions_that_fill_all_tokens": every.count(self.metadata.caption_length) / len(every),
            "latents": {str(r): _statistics(torch.stack(parts).sum(dim=0)) for r, parts in moments.items()},
        }

    def _some(self, count: int) -> Rows:
        spaced = np.linspace(0, len(self.places) - 1, min(count, len(self.places))).round().astype(int)
        return self._read(self.places[spaced])

    def _chunks(self, places: Sequence[int] | np.ndarray) -> Iterator[Rows]:
        for start in range(0, len(places), CHUNK):
            yield self._read(places[start : start + CHUNK])

    def _read(self, places: Sequence[int] | np.ndarray) -> Rows:
        """All columns of some rows, empty where their shard lacks one."""
        read: dict[str, list[bytes]] = {name: [] for name in self.columns}
        for number, found in itertools.groupby((self.rows.spanner[int(place)] for place in places), itemgetter(0)):
            shard, indices = self._shards[number], [index for _, index in found]
            reader = ColumnReader(shard, {name: name for name in shard.column_names})
            columns = reader.allocate(len(indices))
            for row, index in enumerate(indices):
                reader.read(shard, index, row, columns)
            for name, entries in read.items():
                entries += map(bytes, columns.get(name, [b""] * len(indices)))
        return read


def _statistics(moments: Tensor) -> dict[str, Any]:
    """Of channels: count, sum and sum of squares (3, C) -> mean and std, and the std of all entries together."""
    count, total, squares = moments
    mean = total / count
    overall = squares.sum() / count.sum() - (total.sum() / count.sum()) ** 2
    return {
        "mean": mean.tolist(),
        "std": (squares / count - mean**2).clamp(min=0).sqrt().tolist(),
        "sigma_data": overall.clamp(min=0).sqrt().item(),
    }


def _spread(numbers: Sequence[int]) -> dict[str, float]:
    """Least, mean, percentiles and largest."""
    low, half, high = np.percentile(numbers, [5, 50, 95]).tolist()
    spread = {"min": min(numbers), "5%": low, "50%": half, "95%": high, "max": max(numbers)}
    return {"mean": float(np.mean(numbers)), **spread}


def _numbered(what: str, numbers: Sequence[Sequence[int]]) -> dict[str, dict[str, float]]:
    """The spread of a number of the first captions, of the second ones, and so on."""
    names = (f"caption_{what}" if place == 1 else f"caption_{place}_{what}" for place in itertools.count(1))
    return {name: _spread(counted) for name, counted in zip(names, numbers, strict=False)}


def _ordered(counts: Counter[float]) -> dict[str, int]:
    return {str(key): counts[key] for key in sorted(counts)}


def bytes_per_row(encodings: Mapping[str, str], columns: Mapping[str, Entries]) -> float:
    """Size of the MDS shards that hold these rows, divided by their number.

    Args:
        encodings: of the columns, in the terms of `MDSWriter`.
        columns: as many entries of each.
    """
    count = min(len(columns[name]) for name in encodings)
    with TemporaryDirectory() as folder:
        with MDSWriter(out=f"{folder}/mds", columns=dict(encodings)) as writer:
            for i in range(count):
                writer.write({name: columns[name][i] for name in encodings})
        return sum(shard.stat().st_size for shard in Path(folder, "mds").glob("*.mds")) / count
