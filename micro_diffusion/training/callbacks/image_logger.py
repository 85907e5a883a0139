"""Draws the prompts of a run while it trains: PNG grids with captions in the run folder, images to the loggers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from composer import Callback, Event, Logger, State
from composer.core import get_precision_context
from composer.utils import create_interval_scheduler, dist
from torch import Tensor, nn

from micro_diffusion.bounds import PositiveInt
from micro_diffusion.sampling.grid import captioned_grid
from micro_diffusion.sampling.pipeline import Pipeline, to_uint8
from micro_diffusion.sampling.prompts import Prompts
from micro_diffusion.text.classes import ClassEncoder
from micro_diffusion.training.distributed.sharding import is_sharded, whole_state
from micro_diffusion.training.latent_diffusion import LatentDiffusion
from micro_diffusion.training.optimizers.ema import find_average
from micro_diffusion.training.times import Interval
from micro_diffusion.training.trainable import trained_model


class ImageLogger(Callback):
    """Draws with the averaged weights where there are some, on rank 0, and at the end of training in any case.

    Args:
        pipeline: takes a backbone and an objective, and has the text encoder, autoencoder and sampler already.
        prompts: what to generate. With an image conditioner it is the first samples of the data instead, as many.
        interval: how often, as a Composer time such as `1000ba`.
        folder: for the grids.
        batch_size: images generated at once.
        encoder_device: where text encoder and autoencoder work; in between they wait on the CPU.
    """

    def __init__(
        self,
        *,
        pipeline: Callable[..., Pipeline],
        prompts: Prompts,
        interval: Interval,
        folder: str,
        batch_size: PositiveInt,
        encoder_device: str | torch.device,
    ) -> None:
        self.pipeline = pipeline
        self.prompts = prompts
        self.folder = Path(folder)
        self.batch_size = batch_size
        self.encoder_device = torch.device(encoder_device)
        self._is_due = create_interval_scheduler(interval, include_end_of_training=True)
        self._logged_at = -1
        self._copy: nn.Module | None = None
        self._example: tuple[Tensor, list[str]] | None = None

    def init(self, state: State, logger: Logger) -> None:
        """Keep a copy of a network that is about to be sharded, for one rank cannot generate with its share alone."""
        if state.fsdp_config is not None and dist.get_global_rank() == 0:
            # without gradients, autocast does not keep all weights in half precision as well
            self._copy = copy.deepcopy(trained_model(state.model).network).requires_grad_(False)

    def fit_start(self, state: State, logger: Logger) -> None:
        """Refuse data that other encoders made than those that are used here, and a GPU for them that is not there."""
        if self.encoder_device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"machine.encoder_device is {self.encoder_device}, but torch finds no GPU; set it to cpu")
        metadata = getattr(getattr(state.train_dataloader, "dataset", None), "metadata", None)
        encoders = getattr(self.pipeline, "keywords", {})
        if metadata is not None and {"autoencoder", "text_encoder"} <= encoders.keys():
            for kind in ("autoencoder", "text_encoder"):
                metadata.check_encoder(kind, encoders[kind].provenance)
        if isinstance(encoder := encoders.get("text_encoder"), ClassEncoder):
            encoder.tokenize(self.prompts.captions)  # a class that there is not is better known now than hours later
        model = trained_model(state.model)
        if isinstance(model, LatentDiffusion) and model.image_conditioner is not None and dist.get_global_rank() == 0:
            self._example = self._first_samples(state)

    def _first_samples(self, state: State) -> tuple[Tensor, list[str]]:
        """Latents and captions of the first samples of the evaluation's data, or else of the training's."""
        loaders = [*(evaluator.dataloader.dataloader for evaluator in state.evaluators), state.train_dataloader]
        data: Any = getattr(loaders[0], "dataset", None)
        if not hasattr(data, "read"):
            raise ValueError(
                f"the image logger shows images of {type(data).__name__} to the network, but cannot read single ones; "
                "leave it out of callbacks, or use micro_diffusion.data.stream.loader.build_loader"
            )
        batch = data.read(data.first(len(self.prompts.captions)))
        return batch["latents"], batch["caption"]

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """Generate when the interval counts batches."""
        if self._is_due(state, Event.BATCH_CHECKPOINT):
            self._generate(state, logger)

    def epoch_checkpoint(self, state: State, logger: Logger) -> None:
        """Generate when the interval counts epochs."""
        if self._is_due(state, Event.EPOCH_CHECKPOINT):
            self._generate(state, logger)

    def _generate(self, state: State, logger: Logger) -> None:
        step = state.timestamp.batch.value
        if step == self._logged_at:
            return
        self._logged_at = step
        model = trained_model(state.model)
        if not isinstance(model, LatentDiffusion):
            raise ValueError(f"the image logger cannot generate with {type(model).__name__}; leave it out of callbacks")
        average = find_average(state)
        with average.averaged(model.network) if average is not None else nullcontext():
            network = self._whole_network(model.network)
            if dist.get_global_rank() == 0:
                precision = get_precision_context(state.precision, state.precision_config)
                images, captions = self._images(network, model, precision)
                self._show(images, captions, step, logger)

    def _show(self, images: Tensor, captions: list[str], step: int, logger: Logger) -> None:
        """Write the grid and give the images to the loggers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        captioned_grid(images, captions).save(self.folder / f"step_{step:07d}.png")
        logger.log_images(list(images), name="samples", channels_last=False, step=step)

    def _whole_network(self, network: nn.Module) -> nn.Module:
        """The network itself, or on the first rank its copy with the weights that all ranks hold together."""
        if not is_sharded(network):
            return network
        weights = whole_state(network)
        if self._copy is None:
            return network
        self._copy.load_state_dict(weights)
        return self._copy

    def _parts(self, network: nn.Module, model: LatentDiffusion) -> Mapping[str, Any]:
        """Further parts of the pipeline of a network."""
        return {}

    def _settings(self) -> Mapping[str, Any]:
        """Further settings of generating."""
        return {}

    def _images(
        self, network: nn.Module, model: LatentDiffusion, precision: AbstractContextManager[object]
    ) -> tuple[Tensor, list[str]]:
        """One image for each prompt, of the shape that the network is trained at, (N, 3, H, W), and its caption.

        A network that is conditioned on images makes those of its example again.
        """
        device, training = next(model.network.parameters()).device, network.training
        network = network.to(device).eval()
        parts = self._parts(network, model)
        pipeline = self.pipeline(backbone=network, objective=model.objective, **parts)
        with self._encoders_at_work(pipeline), precision, model.cpu_autocast(device):
            captions, given = self.prompts.captions, {}
            if self._example is not None and model.image_conditioner is not None:
                latents, captions = self._example
                images = to_uint8(pipeline.autoencoder.decode(latents.to(self.encoder_device))).cpu()
                given = {**model.image_conditioner.example(images), "resolution": tuple(images.shape[2:])}
            images = pipeline.generate(
                captions,
                seed=self.prompts.seed,
                guidance_scale=self.prompts.guidance_scale,
                batch_size=self.batch_size,
                **self._settings(),
                **given,
            )
        network.train(training)
        if network is self._copy:
            network.to("cpu")  # its place on the device is needed for training
        return images, captions

    @contextmanager
    def _encoders_at_work(self, pipeline: Pipeline) -> Iterator[None]:
        """Text encoder and autoencoder on their device, whose memory is needed for training afterwards."""
        encoders = pipeline.text_encoder, pipeline.autoencoder
        for encoder in encoders:
            encoder.to(self.encoder_device)
        try:
            yield
        finally:
            for encoder in encoders:
                encoder.to(torch.device("cpu"))
