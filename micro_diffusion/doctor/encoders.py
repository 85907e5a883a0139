"""The encoders of a stage: whether they are here, and the ones that made its data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from hydra.utils import get_object, instantiate

ENCODERS = ("autoencoder", "text_encoder")


def check_encoder(node: Mapping[str, Any], *, download: bool, made: set[Path]) -> str:
    """An encoder is bundled, local, in the hub's cache or left by the runs `made` before; or `download` fetches it."""
    target, path = get_object(node["_target_"]), Path(str(node.get("path")))
    if not path.exists() and not made.isdisjoint(path.resolve().parents):
        return f"of {path}, which an earlier stage makes"
    if download or not hasattr(target, "repository"):
        return instantiate(node, _convert_="all").name
    arguments = {key: value for key, value in node.items() if not key.startswith("_")}
    place = target.repository(**arguments)
    if Path(place).expanduser().exists():
        return f"{place} on this disk"
    try:
        snapshot_download(place, local_files_only=True)
    except (LocalEntryNotFoundError, ValueError) as error:
        raise FileNotFoundError(
            f"{place} is neither a folder nor in the cache of the Hugging Face hub; fetch it with --download"
        ) from error
    return f"{place} in the hub's cache"


def check_perceptual(model: Any) -> str:
    """The weights of LPIPS are there."""
    model.perceptual.load()
    return f"LPIPS by {model.perceptual.path}"
