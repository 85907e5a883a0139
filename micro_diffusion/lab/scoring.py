"""Scores a finished run once more, with images that are made otherwise."""

from __future__ import annotations

import json
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from micro_diffusion.checkpoint import WEIGHT_FILES, choose_weights, load_strictly, read_config
from micro_diffusion.files.weight_file import read_tensors
from micro_diffusion.files.whole_file import whole_file
from micro_diffusion.lab.results import SCORE
from micro_diffusion.training.latent_diffusion import LatentDiffusion


def score(config: DictConfig, folder: Path, training: Path) -> None:
    """Make and score the images of a configuration with the weights of a run, as at the end of its training.

    Args:
        config: whose `callbacks.composition` says how.
        folder: where `metrics.jsonl` is written.
        training: the run.
    """
    # within the whole, for what the model refers to outside of itself
    model = instantiate(OmegaConf.merge(config, {"model": {"auxiliary": None}}).model, _convert_="all")
    assert isinstance(model, LatentDiffusion)
    model.cpu_precision = read_config(training)["model"]["cpu_precision"]  # which "auto" was settled on
    path = training / WEIGHT_FILES[choose_weights(training)]
    load_strictly(model.network, read_tensors(path), source=str(path))
    scores = instantiate(config.callbacks.composition, _convert_="all").scores(model)
    steps = int(config.trainer.max_duration.removesuffix("ba"))
    with whole_file(folder / "metrics.jsonl") as unfinished:
        unfinished.write_text(json.dumps({"step": steps} | {f"{SCORE}{name}": value for name, value in scores.items()}))
