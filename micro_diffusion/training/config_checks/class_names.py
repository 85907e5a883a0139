"""Class names that a configuration leaves to the data."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from micro_diffusion.data.format.buckets import read_buckets
from micro_diffusion.data.format.metadata import LatentMetadata
from micro_diffusion.data.format.record import RECORD

CLASS_ENCODER = "micro_diffusion.text.classes.ClassEncoder"


def with_class_names(config: DictConfig, *, data_later: bool = False) -> DictConfig:
    """The configuration with `text_encoder.names` of the training data, where it says null; else as it is.

    So the run folder says which classes there are, and needs no data.

    Args:
        config: of a stage.
        data_later: data that are not there will be made; the names then stay null.

    Raises:
        FileNotFoundError: when the data are not there.
        ValueError: when they do not say which classes they have.
    """
    encoder = config.get("text_encoder")
    if not OmegaConf.is_dict(encoder) or encoder.get("_target_") != CLASS_ENCODER or encoder.get("names") is not None:
        return config
    path = _first_folder(OmegaConf.to_container(config.train_loader))
    if data_later and not path.exists():
        return config
    if not (path / RECORD).is_file():
        raise FileNotFoundError(
            f"text_encoder.names is null, and {path} is not there to say which classes it has; set text_encoder.names "
            "to the list, or train_loader.path to the folder of the latents"
        )
    names = LatentMetadata.read(path).encoders.get("text_encoder", {}).get("names")
    if not names:
        raise ValueError(
            f"text_encoder.names is null, but {path} was not made with text_encoder=classes; precompute it with that, "
            "or choose the text_encoder that made it"
        )
    named = copy.deepcopy(config)
    named.text_encoder.names = names
    return named


def _first_folder(loader: Any) -> Path:
    """The folder of a loader, or the first one of its mixture, or of its aspect ratios."""
    mixture = loader.get("mixture")
    part: Mapping[str, Any] = next(iter(mixture.values())) if mixture else loader
    path = Path(str(part.get("path"))).expanduser()
    return path / next(iter(read_buckets(path) or [""]))
