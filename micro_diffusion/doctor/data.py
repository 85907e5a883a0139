"""The data of a stage: whole, and made for its network and by its encoders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from micro_diffusion.data.integrity import check_folder, check_hashes
from micro_diffusion.data.metadata import PRECOMPUTE, LatentMetadata
from micro_diffusion.data.output_folder import RECORD
from micro_diffusion.doctor.finding import Doubt

CONVERT = "python scripts/convert.py source=SOURCE out={path}"
LOADERS = ("train_loader", "eval_loader")
UNUSUAL = 1.5
"""Factor between objective.sigma_data and the deviation of the latents above which something is amiss."""


def folders(content: Mapping[str, Any], loader: str) -> list[Path]:
    """The folders that a loader reads."""
    node = content[loader] or {}
    paths = node.get("paths") or [node[key] for key in ("path",) if key in node]
    return [Path(path).expanduser() for path in paths]


def check_data(content: Mapping[str, Any], loader: str, *, deep: bool) -> str:
    """The folders of a loader are whole and hold what the network takes."""
    facts = []
    for path in folders(content, loader):
        latents = "backbone" in content
        samples = check_folder(path, command=PRECOMPUTE if latents else CONVERT)
        facts.append(f"{samples:,} samples in {path}")
        if latents:
            _check_latents(LatentMetadata.read(path), content)
        if deep:
            check_hashes(path)
            facts.append("all hashes right")
    return ", ".join(facts)


def check_encoders(content: Mapping[str, Any]) -> str:
    """The encoders of the configuration are those that made the data."""
    for loader in LOADERS:
        for path in folders(content, loader):
            if not (path / RECORD).is_file():
                continue
            metadata = LatentMetadata.read(path)
            for kind in metadata.encoders:
                if not metadata.states_encoder(kind, content[kind]):
                    metadata.check_encoder(kind, instantiate(content[kind], _convert_="all").provenance)
    return "those that made the data"


def _check_latents(metadata: LatentMetadata, content: Mapping[str, Any]) -> None:
    metadata.latent_size(content["resolution"])
    backbone = content["backbone"]
    metadata.check(in_channels=backbone["in_channels"], caption_dim=backbone["caption_dim"])
    made = metadata.encoders.get("text_encoder", {})  # `check_encoders` compares it with the config's
    runs_encoder = content["model"].get("text_encoder") is not None
    metadata.check_captions(masked=backbone.get("use_caption_mask", False), text_encoder=made if runs_encoder else None)
    measured = metadata.latent_std.get(str(content["resolution"]))
    assumed = content["objective"].get("sigma_data")
    if measured and assumed and not 1 / UNUSUAL < measured / assumed < UNUSUAL:
        raise Doubt(
            f"the latents have a standard deviation of {measured:.2f}, but objective.sigma_data is {assumed:g}; set it "
            "to about that"
        )
