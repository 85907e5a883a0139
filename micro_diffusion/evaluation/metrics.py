"""The metrics by name: which features each compares, and what it needs.

Legend: B N images, H W their height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from micro_diffusion.bounds import PositiveInt
from micro_diffusion.evaluation.distances import (
    clip_discrepancy,
    clip_score,
    frechet_distance,
    kernel_distance,
    moments,
    precision_recall,
)
from micro_diffusion.evaluation.features import CaptionNetwork, FeatureNetwork, open_network
from micro_diffusion.evaluation.image_folder import Filter, ImageFiles, Preparation
from micro_diffusion.evaluation.reference import Reference, features_of, reference_of

MetricName = Literal["fid", "kid", "precision_recall", "fd_dinov2", "cmmd", "clip_score"]


class Compared(NamedTuple):
    """What a metric looks at.

    features: of the generated images, (N, D) float32. reference: of the real ones; None for a metric without them.
    captions: embeddings of the prompts, (N, D); None for a metric without them.
    """

    features: Tensor
    reference: Reference | None
    captions: Tensor | None


@dataclass(frozen=True)
class Metric:
    """A way to score images. network: the name of its feature network. reads: what it needs beside the images."""

    network: str
    reads: Literal["moments", "features", "captions"]
    measure: Callable[[Compared], dict[str, float]]


def _frechet(name: str) -> Callable[[Compared], dict[str, float]]:
    def measure(compared: Compared) -> dict[str, float]:
        ours, theirs = moments(compared.features), _reference(compared).moments
        if ours.mean.shape != theirs.mean.shape:
            raise ValueError(
                f"the statistics are of {len(theirs.mean)} features, but this network has {len(ours.mean)}; they are "
                "of another network"
            )
        return {name: frechet_distance(ours, theirs)}

    return measure


def _kernel(compared: Compared) -> dict[str, float]:
    real = _features(compared)
    size = min(1000, len(compared.features), len(real))
    mean, deviation = kernel_distance(compared.features, real, subset_size=size)
    return {"kid": mean, "kid_std": deviation, "kid_subset_size": size}


def _manifolds(compared: Compared) -> dict[str, float]:
    return dict(zip(("precision", "recall"), precision_recall(compared.features, _features(compared)), strict=True))


def _captions(compared: Compared) -> dict[str, float]:
    assert compared.captions is not None
    return {"clip_score": clip_score(compared.features, compared.captions)}


METRICS: dict[str, Metric] = {
    "fid": Metric("inception", "moments", _frechet("fid")),
    "kid": Metric("inception", "features", _kernel),
    "precision_recall": Metric("inception", "features", _manifolds),
    "fd_dinov2": Metric("dinov2", "moments", _frechet("fd_dinov2")),
    "cmmd": Metric("clip", "features", lambda seen: {"cmmd": clip_discrepancy(seen.features, _features(seen))}),
    "clip_score": Metric("clip", "captions", _captions),
}


def _reference(compared: Compared) -> Reference:
    assert compared.reference is not None
    return compared.reference


def _features(compared: Compared) -> Tensor:
    features = _reference(compared).features
    if features is None:
        raise ValueError(
            "a file of `mu` and `sigma` suffices for fid and fd_dinov2 alone; give the folder of the real images"
        )
    return features


class ImageMetrics:
    """Scores images by some of METRICS.

    Args:
        metrics: names, at least one.
        reference: real images, see `reference_of`; None where no metric compares with any.
        networks: folder of the feature networks' files.
        features: one feature network for all metrics in place of their own, such as random_conv; the names of scores
            then end in its name. clip_score keeps its own.
        size: see `Preparation`.
        filter: see `Preparation`.
        cache: folder for features of real images.
        device: of the feature networks; None for the GPU where there is one.
        batch_size: images that a network sees at once.

    Raises:
        ValueError: for an unknown metric, or real images that are missing or that no metric looks at.
    """

    def __init__(
        self,
        *,
        metrics: Sequence[MetricName],
        reference: str | None = None,
        networks: str = "feature_networks",
        features: str | None = None,
        size: PositiveInt | None = None,
        filter: Filter = "lanczos",
        cache: str = "~/.cache/micro_diffusion/statistics",
        device: str | None = None,
        batch_size: PositiveInt = 32,
    ) -> None:
        unknown = [name for name in metrics if name not in METRICS]
        if unknown or not metrics:
            raise ValueError(f"metrics are {list(metrics)}; choose some of {', '.join(METRICS)}")
        compares = [name for name in metrics if METRICS[name].reads != "captions"]
        if compares and reference is None:
            raise ValueError(f"{compares[0]} compares with real images; name a folder of them as reference")
        if reference is not None and not compares:
            raise ValueError(f"a reference has no effect on {', '.join(metrics)}; leave it out")
        if features is not None and not compares:
            raise ValueError(f"features {features} have no effect on {', '.join(metrics)}; leave them out")
        self.metrics = list(dict.fromkeys(metrics))
        self.reference = None if reference is None else Path(reference).expanduser()
        self.networks, self.features, self.batch_size = networks, features, batch_size
        self.preparation = Preparation(size=size, filter=filter)
        self.cache = Path(cache).expanduser()
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._opened: dict[str, Any] = {}
        self._references: dict[str, Reference] = {}

    def network_of(self, metric: str) -> str:
        """The name of the network whose features a metric compares."""
        own = METRICS[metric]
        return own.network if self.features is None or own.reads == "captions" else self.features

    def open(self) -> None:
        """Open every network, and read or compute the statistics of real images, which may take long.

        Raises:
            FileNotFoundError: when files of a network or the real images are not there.
            ValueError: when they are of no use.
        """
        for metric in self.metrics:
            name = self.network_of(metric)
            if name not in self._opened:
                self._opened[name] = open_network(name, folder=self.networks, device=self.device)
            if METRICS[metric].reads == "captions" and not isinstance(self._opened[name], CaptionNetwork):
                raise ValueError(f"{metric} needs a network of captions, which {name} is not; choose clip")
        for metric in self.metrics:
            name = self.network_of(metric)
            if METRICS[metric].reads != "captions" and name not in self._references:
                assert self.reference is not None
                self._references[name] = reference_of(
                    self.reference,
                    self._opened[name],
                    preparation=self.preparation,
                    cache=self.cache,
                    batch_size=self.batch_size,
                )

    def __call__(self, images: Tensor, captions: Sequence[str]) -> dict[str, float]:
        """Scores of generated images, uint8 (B, 3, H, W), and of the prompts that they are of, in the order of both."""
        from micro_diffusion.sampling.grid import to_pil

        prepared = torch.stack([self.preparation(to_pil(image)) for image in images])
        return self._scores(lambda network: torch.cat([network(b) for b in prepared.split(self.batch_size)]), captions)

    def of_folder(self, folder: Path, files: Sequence[str], captions: Sequence[str]) -> dict[str, float]:
        """Scores of the image files of a folder.

        Raises:
            FileNotFoundError: when some are missing.
            ValueError: when one cannot be read, or they are of several sizes.
        """
        images = ImageFiles(folder, self.preparation, list(files))
        return self._scores(lambda network: features_of(images, network, batch_size=self.batch_size), captions)

    def _scores(self, featured: Callable[[FeatureNetwork], Tensor], captions: Sequence[str]) -> dict[str, float]:
        self.open()
        features = {name: featured(network) for name, network in self._opened.items()}
        found: dict[str, float] = {}
        for metric in self.metrics:
            name = self.network_of(metric)
            texts = None
            if METRICS[metric].reads == "captions":
                texts = torch.cat(
                    [
                        self._opened[name].embed_captions(captions[start : start + self.batch_size])
                        for start in range(0, len(captions), self.batch_size)
                    ]
                )
            measured = METRICS[metric].measure(Compared(features[name], self._references.get(name), texts))
            ending = "" if name == METRICS[metric].network else f"_{name}"
            found |= {f"{key}{ending}": value for key, value in measured.items()}
        return found

    def described(self) -> dict[str, Any]:
        """What the scores depend on beside the generated images; after `open`."""
        return {
            "networks": {name: network.identity for name, network in self._opened.items()},
            "reference": None if self.reference is None else str(self.reference),
            "reference_images": {name: reference.count for name, reference in self._references.items()},
            "preparation": str(self.preparation),
        }
