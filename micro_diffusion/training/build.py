"""From a composed configuration to a finished run folder."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from composer import Callback, Trainer
from composer.algorithms.warnings import NoEffectWarning
from composer.utils import dist, get_device, reproducibility
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DistributedSampler

from micro_diffusion.backbone.backbone import Backbone
from micro_diffusion.backbone.embedding import check_sizes
from micro_diffusion.checkpoint import parameter_count
from micro_diffusion.data.format.metadata import LatentMetadata
from micro_diffusion.machine.tensor_memory import keep_freed_memory
from micro_diffusion.machine.threads import yield_when_busy
from micro_diffusion.training.autoencoder_training import AutoencoderTraining
from micro_diffusion.training.callbacks.interruption import Interruption, end_with_launcher
from micro_diffusion.training.callbacks.seeded_draws import SeededDraws
from micro_diffusion.training.callbacks.smaller_batches import SmallerEvaluations, SmallerMicrobatches
from micro_diffusion.training.checkpoints.first_weights import (
    check_first_checkpoint,
    start_from_run,
    without_first_weights,
)
from micro_diffusion.training.checkpoints.resumption import NextDataAfterLoad, OwnCheckpoints, own_checkpoints, way_on
from micro_diffusion.training.checkpoints.run_folder import RunFolder
from micro_diffusion.training.checkpoints.same_data import PATH, SameData, changed_data
from micro_diffusion.training.checkpoints.saver import WholeCheckpointSaver
from micro_diffusion.training.config_checks.class_names import with_class_names
from micro_diffusion.training.config_checks.coherence import check_coherence
from micro_diffusion.training.config_checks.errors import refusals_named
from micro_diffusion.training.config_checks.schema import validate
from micro_diffusion.training.distributed.averaged_gradients import AveragedGradients, complete_gradients_first
from micro_diffusion.training.distributed.machine_faults import way_on_known
from micro_diffusion.training.distributed.sharding import shard_by_layer, whole_state
from micro_diffusion.training.distributed.shared_pages import shared_with_workers
from micro_diffusion.training.optimizers.ema import find_average
from micro_diffusion.training.trainable import Trainable

log = logging.getLogger(__name__)


def train(config: DictConfig) -> None:
    """Train what the configuration describes, or go on where an interrupted run of it stopped.

    Raises:
        ValueError: for a configuration that does not fit together, or a run folder of another one.
    """
    config = with_class_names(config)
    validate(config)
    check_coherence(config)
    content: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # pyright: ignore[reportAssignmentType]
    run = RunFolder(Path(config.output_dir) / config.exp_name, content)
    run.check()
    if run.is_complete:
        log.info("%s is complete already; nothing to do", run.path)
        return
    run.check_may_begin()
    keep_freed_memory(config.trainer.device)
    yield_when_busy(config.trainer.device)
    end_with_launcher()
    dist.initialize_dist(get_device(config.trainer.device), timeout=config.trainer.dist_timeout)
    with run.locked() if dist.get_global_rank() == 0 else nullcontext():
        _train(config, run)


def _train(config: DictConfig, run: RunFolder) -> None:
    checkpoints = own_checkpoints(run, autoresume=config.trainer.autoresume)
    if checkpoints is not None and checkpoints.there and config.trainer.autoresume:
        config = without_first_weights(config)
    config = _with_settled_precision(config, run)
    model = build_model(config)
    trainer = build_trainer(config, model, checkpoints)
    _check_not_past_end(trainer, run)
    if isinstance(model, AutoencoderTraining):
        model.check_run(trainer.state)
    if dist.get_global_rank() == 0:
        run.begin(step=int(trainer.state.timestamp.batch), also=changed_data(trainer.state))
    start = time.monotonic()
    if not _has_ended(trainer):
        with shared_with_workers(), way_on_known(way_on(config.trainer)):
            trainer.fit()
    elif trainer.state.evaluators:  # it was killed after its last checkpoint, perhaps in its last evaluation
        trainer.eval()
    save(trainer, model, run, seconds=time.monotonic() - start)
    dist.barrier()
    trainer.close()


def _with_settled_precision(config: DictConfig, run: RunFolder) -> DictConfig:
    """The configuration with the precision on a CPU that the first rank has measured, or finds in the run folder."""
    settled = [run.settle_cpu_precision() if dist.get_global_rank() == 0 else None]
    dist.broadcast_object_list(settled)
    if "cpu_precision" in config.model:
        config = config.copy()
        config.model.cpu_precision = settled[0]
    return config


def build_model(config: DictConfig) -> Any:
    """The model of `config.model`, its weights random by `seed`, or those of the run `init_from`."""
    reproducibility.seed_all(config.seed)
    model = instantiate(config.model, _convert_="all")
    if not isinstance(model, Trainable):
        raise ValueError(f"model._target_ {config.model._target_} cannot be trained; see training/trainable.py")
    adapter = getattr(model, "adapter", None)
    with nullcontext() if adapter is None else adapter.removed(model.network):
        start_from_run(model.network, config)
    log.info("%s: %s parameters", type(model.network).__name__, f"{parameter_count(model.network):,}")
    return model


def build_trainer(config: DictConfig, model: Any, checkpoints: OwnCheckpoints | None) -> Trainer:
    """Composer's trainer with everything around the model; `checkpoints` are the run's own so far."""
    # on a CPU, low-precision LayerNorm and the memory monitor have nothing to do, and say so
    warnings.filterwarnings("ignore", category=NoEffectWarning)
    warnings.filterwarnings("ignore", message="The memory monitor only works on CUDA")
    shard_by_layer(model.network)
    train_loader, eval_loader = _loader(config.train_loader, model), _loader(config.eval_loader, model)
    _check_same_encoders(train_loader, eval_loader)
    _check_encoders(_metadata(train_loader), config)
    optimizer = instantiate(config.optimizer, _convert_="all")(model.parameter_groups())
    algorithms = [*_values(config.algorithms), AveragedGradients(), SmallerEvaluations(), SmallerMicrobatches()]
    check_first_checkpoint(model, optimizer, algorithms, config)
    first = [SeededDraws(config.seed), NextDataAfterLoad(), *_same_data(train_loader, config)]
    interruption = Interruption(way_on=way_on(config.trainer))
    last = [*_savers(config.trainer, checkpoints, interruption), interruption]  # it ends the run, which is saved then
    with refusals_named("trainer"):
        return instantiate(config.trainer, _convert_="all")(
            model=model,
            optimizers=optimizer,
            schedulers=instantiate(config.schedule),
            train_dataloader=train_loader,
            eval_dataloader=eval_loader,
            algorithms=algorithms,
            algorithm_passes=complete_gradients_first,
            callbacks=[*first, *_values(config.callbacks), *last],
            loggers=_values(config.loggers),
        )


def save(trainer: Trainer, model: Trainable, run: RunFolder, *, seconds: float) -> None:
    """Write the weights of a finished training, the averaged ones too where there are some, then the mark.

    Every rank takes part in gathering the weights; the first one writes.
    """
    is_first = dist.get_global_rank() == 0
    state, batches = whole_state(model.network), trainer.state.train_dataloader
    assert batches is not None
    if isinstance(sampler := getattr(batches, "sampler", None), DistributedSampler):
        sampler.set_epoch(0)  # the same batches, however often the run was resumed
    if is_first:
        model.save(run.path, "raw", state, batches)
    average = find_average(trainer.state)
    if average is not None:
        with average.averaged(model.network) as is_averaged:
            state = whole_state(model.network) | average.whole()  # in fp32, whatever the weights are stored in
            if is_first and is_averaged:
                model.save(run.path, "ema", state, batches)
            elif is_first:
                log.warning("no averaged (EMA) weights are saved: training ended before algorithms.ema.start")
    if not is_first:
        return
    run.finish(
        batches=trainer.state.timestamp.batch.value,
        samples=trainer.state.timestamp.sample.value,
        seconds=round(seconds, 1),
        parameters=parameter_count(model.network),
        torch=torch.__version__,
    )
    log.info("%s is complete", run.path)


def _savers(trainer: DictConfig, checkpoints: OwnCheckpoints | None, interruption: Interruption) -> list[Callback]:
    if checkpoints is None:
        return []
    return [
        WholeCheckpointSaver(
            folder=str(checkpoints.folder),
            there=checkpoints.there,
            remote=checkpoints.remote,
            interval=trainer.save_interval,
            keep=trainer.save_num_checkpoints_to_keep,
            is_urgent=interruption.is_agreed,
        )
    ]


def _same_data(train_loader: Any, config: DictConfig) -> list[Callback]:
    """For a loader that says what identifies its data."""
    data = getattr(train_loader.dataset, "identity", None)
    return [] if data is None else [SameData(data=data, accepted=PATH in config.accept_changes)]


def _has_ended(trainer: Trainer) -> bool:
    end = trainer.state.max_duration
    return end is not None and trainer.state.timestamp.get(end.unit) >= end


def _check_not_past_end(trainer: Trainer, run: RunFolder) -> None:
    """Raise ValueError when more was trained already than is asked for; in samples, a last step may go beyond it."""
    end, done = trainer.state.max_duration, trainer.state.timestamp
    if end is None or (trained := done.get(end.unit)) <= end:
        return
    if (trained - end).value * done.batch.value >= trained.value:  # by a step or more
        raise ValueError(
            f"{run.path} has trained {trained.to_timestring()} already, more than trainer.max_duration="
            f"{end.to_timestring()}; set it to at least that, or choose another exp_name"
        )


def _loader(node: DictConfig | None, model: Any) -> Any:
    """A loader whose latents and captions, where it gives any, are known to fit the network; None for no node.

    A network that takes no captions may leave them lie.
    """
    if node is None:
        log.info("eval_loader is null, so no evaluation loss is computed")
        return None
    loader = instantiate(node, _convert_="all")
    metadata = _metadata(loader)
    if metadata is not None:
        network, text_encoder = model.network, getattr(model, "text_encoder", None)
        metadata.check(in_channels=network.in_channels, caption_dim=getattr(network, "caption_dim", None))
        if isinstance(network, Backbone):
            made = None if text_encoder is None else text_encoder.provenance
            metadata.check_captions(masked=network.use_caption_mask, text_encoder=made)
        check_sizes(getattr(network, "sizes", None), getattr(loader.dataset, "sizes", ()))
    return loader


def _check_same_encoders(train_loader: Any, eval_loader: Any) -> None:
    """Raise ValueError when other encoders made the evaluation's latents than those of training."""
    ours, theirs = _metadata(train_loader), _metadata(eval_loader)
    if ours is None or theirs is None:
        return
    for kind in ("autoencoder", "text_encoder"):
        a, b = getattr(ours, kind), getattr(theirs, kind)
        if a != b:
            raise ValueError(
                f"train_loader.path holds data of the {kind} {a}, but eval_loader.path of {b}, so the evaluation loss "
                "would mean nothing; precompute both with the same one"
            )


def _check_encoders(metadata: LatentMetadata | None, config: DictConfig) -> None:
    """Raise ValueError when the config has other encoders than those that made the data.

    An encoder is built for it only where the config does not name the very same.
    """
    if metadata is None:
        return
    metadata.check_factor(config.autoencoder.get("downsampling"))
    for kind in (kind for kind in metadata.encoders if kind in config):  # a training may have no use for captions
        node = config[kind]
        if not metadata.states_encoder(kind, node):
            metadata.check_encoder(kind, instantiate(node, _convert_="all").provenance)


def _metadata(loader: Any) -> LatentMetadata | None:
    return getattr(getattr(loader, "dataset", None), "metadata", None)


def _values(nodes: DictConfig) -> list[Any]:
    """The objects of a mapping of nodes, in order; a node set to null is left out."""
    objects: Mapping[str, Any] = instantiate(nodes, _convert_="all")
    return [value for value in objects.values() if value is not None]
