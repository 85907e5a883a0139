"""From a composed configuration to a finished run folder."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from composer import Trainer
from composer.algorithms.warnings import NoEffectWarning
from composer.utils import dist, get_device, reproducibility
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from micro_diffusion.checkpoint import choose_weights, initialise_from, parameter_count
from micro_diffusion.training.draws import SeededDraws
from micro_diffusion.training.ema import find_average
from micro_diffusion.training.nan_guard import NaNGuard
from micro_diffusion.training.resumption import NextEpochAfterLoad
from micro_diffusion.training.run_folder import RunFolder
from micro_diffusion.training.schema import validate
from micro_diffusion.training.trainable import Trainable

log = logging.getLogger(__name__)


def train(config: DictConfig) -> None:
    """Train what the configuration describes, or go on where an interrupted run of it stopped.

    Raises:
        ValueError: for a configuration that does not fit together, or a run folder of another one.
    """
    validate(config)
    content: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # pyright: ignore[reportAssignmentType]
    run = RunFolder(Path(config.output_dir) / config.exp_name, content)
    run.check()
    if run.is_complete:
        log.info("%s is complete already; nothing to do", run.path)
        return
    dist.initialize_dist(get_device(config.trainer.device), timeout=config.trainer.dist_timeout)
    model = build_model(config)
    trainer = build_trainer(config, model)
    if dist.get_global_rank() == 0:
        run.begin()
    start = time.monotonic()
    trainer.fit()
    if dist.get_global_rank() == 0:
        save(trainer, model, run, seconds=time.monotonic() - start)
    dist.barrier()
    trainer.close()


def build_model(config: DictConfig) -> Any:
    """The model of `config.model`, its weights random by `seed`, or those of the run `init_from`."""
    reproducibility.seed_all(config.seed)
    model = instantiate(config.model, _convert_="all")
    if not isinstance(model, Trainable):
        raise ValueError(f"model._target_ {config.model._target_} cannot be trained; see training/trainable.py")
    network = model.network
    if config.init_from is not None:
        weights = initialise_from(network, config.init_from, choose_weights(config.init_from, config.init_weights))
        log.info(
            "starts from the %s weights of %s: %d tensors",
            {"ema": "averaged (EMA)", "raw": "raw"}[weights],
            config.init_from,
            len(network.state_dict()),
        )
    log.info("%s: %s parameters", type(network).__name__, f"{parameter_count(network):,}")
    return model


def build_trainer(config: DictConfig, model: Any) -> Trainer:
    """Composer's trainer with everything around the model."""
    # on a CPU, low-precision LayerNorm and the memory monitor have nothing to do, and say so
    warnings.filterwarnings("ignore", category=NoEffectWarning)
    warnings.filterwarnings("ignore", message="The memory monitor only works on CUDA")
    always = [SeededDraws(config.seed), NaNGuard(), NextEpochAfterLoad()]
    return instantiate(config.trainer, _convert_="all")(
        model=model,
        optimizers=instantiate(config.optimizer, _convert_="all")(model.parameter_groups()),
        schedulers=instantiate(config.schedule),
        train_dataloader=_loader(config.train_loader, model.network),
        eval_dataloader=_loader(config.eval_loader, model.network),
        algorithms=_values(config.algorithms),
        callbacks=[*always, *_values(config.callbacks)],
        loggers=_values(config.loggers),
    )


def save(trainer: Trainer, model: Trainable, run: RunFolder, *, seconds: float) -> None:
    """Write the weights of a finished training, the averaged ones too where there are some, then the mark."""
    model.save(run.path, "raw")
    average = find_average(trainer.state)
    if average is not None:
        with average.averaged(model.network):
            model.save(run.path, "ema")
    run.finish(
        batches=trainer.state.timestamp.batch.value,
        samples=trainer.state.timestamp.sample.value,
        seconds=round(seconds, 1),
        parameters=parameter_count(model.network),
        torch=torch.__version__,
    )
    log.info("%s is complete", run.path)


def _loader(node: DictConfig, network: Any) -> Any:
    """A loader whose latents and captions, where it gives any, are known to fit the network."""
    loader = instantiate(node, _convert_="all")
    metadata = getattr(loader.dataset, "metadata", None)
    if metadata is not None:
        metadata.check(in_channels=network.in_channels, caption_dim=network.caption_dim)
    return loader


def _values(nodes: DictConfig) -> list[Any]:
    """The objects of a mapping of nodes, in order; a node set to null is left out."""
    objects: Mapping[str, Any] = instantiate(nodes, _convert_="all")
    return [value for value in objects.values() if value is not None]
