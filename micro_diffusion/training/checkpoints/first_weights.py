"""The weights with which a training starts: those of a finished run, of a checkpoint, or random ones."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from composer import Algorithm
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer

from micro_diffusion.checkpoint import CONFIG_FILE, check_fit, choose_weights, initialise_from, read_config
from micro_diffusion.sampling.pipeline import Resizable
from micro_diffusion.training.checkpoints.content import TRUST, check_algorithms, check_all_is_taken, read_content
from micro_diffusion.training.checkpoints.files import check_checkpoint

log = logging.getLogger(__name__)


def without_first_weights(config: DictConfig) -> DictConfig:
    """The configuration of a run that goes on from a checkpoint of its own.

    It needs neither `init_from` nor `trainer.load_path`, which may have gone since it began. What refers to them stays.
    """
    changed = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    assert isinstance(changed, DictConfig)
    changed.init_from = changed.trainer.load_path = None
    return changed


def start_from_run(network: nn.Module, config: DictConfig) -> None:
    """Copy the weights of the run `init_from`, if there is one."""
    if config.init_from is None:
        return
    weights = initialise_from(network, config.init_from, choose_weights(config.init_from, config.init_weights))
    log.info(
        "starts from the %s weights of %s: %d tensors",
        {"ema": "averaged (EMA)", "raw": "raw"}[weights],
        config.init_from,
        len(network.state_dict()),
    )
    _warn_of_other_positions(network, Path(config.init_from))


def check_first_checkpoint(
    model: Any, optimizer: Optimizer, algorithms: Sequence[Algorithm], config: DictConfig
) -> None:
    """Look at the checkpoint `trainer.load_path`, if there is one, before Composer loads it.

    That of another run is read only when no code is in it, or with `trust_checkpoint`.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when it is damaged, holds code, does not fit the model, or holds more than is loaded; with all
            differences.
    """
    trainer = config.trainer
    if trainer.load_path is None or "://" in trainer.load_path:
        return
    path, own = Path(trainer.load_path), Path(config.output_dir, config.exp_name)
    trusted = config.trust_checkpoint or path.resolve().is_relative_to(own.resolve())
    if path.is_dir() and not trusted:
        raise ValueError(f"{path} is sharded, and reading it runs the code in it; {TRUST}")
    check_checkpoint(path)
    ignored = trainer.get("load_ignore_keys") or ()
    content = read_content(path, trusted=trusted, ignored=ignored)
    check_fit(model, content.model, source=str(path))
    excluded = trainer.get("load_exclude_algorithms") or ()
    weights_only = trainer.load_weights_only
    check_algorithms(content, algorithms, excluded=excluded, weights_only=weights_only, source=str(path))
    if not weights_only:
        check_all_is_taken(content, optimizer, algorithms, ignored=ignored, source=str(path))
    run = path.absolute().parent.parent
    if (run / CONFIG_FILE).is_file():
        _warn_of_other_positions(model.network, run)


def _warn_of_other_positions(network: Any, run: Path) -> None:
    """Say when a network is used at positions that its first weights have never seen."""
    trained = read_config(run).get("backbone")
    if not isinstance(network, Resizable) or trained is None:
        return
    size = trained["input_size"]
    theirs = max([size] if isinstance(size, int) else size) / trained.get("position_scale", 1.0)
    side = max(network.input_size)
    if not math.isclose(side / network.position_scale, theirs, rel_tol=0.01):
        log.warning(
            "the weights of %s were trained at positions below %g, but those of this stage reach %g; set "
            "backbone.position_scale=%g to keep the range",
            run, theirs, side / network.position_scale, side / theirs,
        )  # fmt: skip
