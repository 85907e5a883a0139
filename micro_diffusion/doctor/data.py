"""The data of a stage: whole, and made for its network and by its encoders."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from hydra.utils import instantiate

from micro_diffusion.backbone.embedding import check_sizes
from micro_diffusion.data.format.metadata import PRECOMPUTE, LatentMetadata
from micro_diffusion.data.format.record import RECORD
from micro_diffusion.data.stream.integrity import check_folder, check_hashes
from micro_diffusion.data.stream.mixture import Part, check_weights
from micro_diffusion.doctor.finding import Doubt

CONVERT = "python scripts/convert.py source=SOURCE out={path}"
LOADERS = ("train_loader", "eval_loader")
UNUSUAL = 1.5
"""Factor between objective.sigma_data and the deviation of the latents above which something is amiss."""


def parts(content: Mapping[str, Any], loader: str) -> list[Part]:
    """The folders that a loader reads, local or remote.

    Raises:
        ValueError: when a part of a mixture contradicts itself.
    """
    node = content[loader] or {}
    if node.get("mixture"):
        nodes = [{key: part[key] for key in part if key != "_target_"} for part in node["mixture"].values()]
        return [Part(**arguments) for arguments in nodes]
    paths = node.get("paths") or [node.get("path")]
    shared = {key: node.get(key) for key in ("remote", "caption_probabilities")}
    return [Part(path=path, **shared) for path in paths if path is not None]


def check_data(content: Mapping[str, Any], loader: str, *, deep: bool) -> str:
    """The folders of a loader are whole and hold what the network takes."""
    if content[loader] is None:
        return "none"
    found, facts, deviations = [bucket for part in parts(content, loader) for bucket in part.buckets()], [], []
    sizes: dict[tuple[int, int], None] = {}
    check_weights(found)
    for part in found:
        if "backbone" in content:
            metadata = part.open()
            _check_latents(metadata, content)
            part.caption_choice(metadata, seed=0)  # there are as many captions as it has probabilities
            samples, sizes = metadata.samples, sizes | {metadata.latent_size(content["resolution"]): None}
            deviations.append(metadata.latent_std.get(str(content["resolution"])))
        else:
            samples = check_folder(part.folder, command=CONVERT if "paths" in content[loader] else PRECOMPUTE)
        facts.append(f"{samples:,} samples in {part.remote or part.folder}")
        if deep and part.remote is None:
            check_hashes(part.folder)
            facts.append("all hashes right")
    if "further_sizes" in content.get("backbone", {}):
        check_sizes(_sizes(content["backbone"]), list(sizes))
    for deviation in filter(None, deviations):
        _compare_deviation(deviation, content["objective"].get("sigma_data"))
    if deep and any(part.remote is not None for part in found):
        raise Doubt(
            f"{', '.join(facts)}, but hashes of remote data are not verified; +{loader}.verify=true has training do it"
        )
    return ", ".join(facts)


def check_encoders(content: Mapping[str, Any]) -> str:
    """The encoders of the configuration are those that made the data."""
    given = [part for loader in LOADERS for part in parts(content, loader)]
    for part in itertools.chain(*(one.buckets() if one.remote is None else [one] for one in given)):
        if not (part.folder / RECORD).is_file():
            continue
        metadata = LatentMetadata.read(part.folder)
        for kind in metadata.encoders:
            if not metadata.states_encoder(kind, content[kind]):
                metadata.check_encoder(kind, instantiate(content[kind], _convert_="all").provenance)
    return "those that made the data"


def _sizes(backbone: Mapping[str, Any]) -> list[tuple[int, int]]:
    """That a network takes which has `further_sizes`."""
    main = backbone["input_size"]
    pairs = [[main] * 2 if isinstance(main, int) else main, *(backbone["further_sizes"] or ())]
    return [(height, width) for height, width in pairs]


def _check_latents(metadata: LatentMetadata, content: Mapping[str, Any]) -> None:
    metadata.latent_size(content["resolution"])
    metadata.check_factor(content["autoencoder"].get("downsampling"))
    backbone = content["backbone"]
    metadata.check(in_channels=backbone["in_channels"], caption_dim=backbone["caption_dim"])
    made = metadata.encoders.get("text_encoder", {})  # `check_encoders` compares it with the config's
    runs_encoder = content["model"].get("text_encoder") is not None
    metadata.check_captions(masked=backbone.get("use_caption_mask", False), text_encoder=made if runs_encoder else None)


def _compare_deviation(measured: float, assumed: float | None) -> None:
    if assumed and not 1 / UNUSUAL < measured / assumed < UNUSUAL:
        raise Doubt(
            f"the latents have a standard deviation of {measured:.2f}, but objective.sigma_data is {assumed:g}; set it "
            "to about that"
        )
