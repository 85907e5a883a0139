"""A trained run to use from Python: prompts in, images of Pillow out.

Legend: B images, H W pixels.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from micro_diffusion.checkpoint import Run, load_run
from micro_diffusion.files.run_folders import find_run
from micro_diffusion.generation.edit import prepare
from micro_diffusion.generation.given import ImageSource, name_of
from micro_diffusion.generation.outpainting import extended_images
from micro_diffusion.generation.preview import Preview, previews
from micro_diffusion.generation.recipe import Recipe, weights_file_digest
from micro_diffusion.generation.samplers import find_levels, find_sampler
from micro_diffusion.generation.starts import starts
from micro_diffusion.generation.weaker import NamedRun, weaker_run
from micro_diffusion.machine.device import usable_device
from micro_diffusion.machine.precision import Precision, autocast, computes_in_bf16
from micro_diffusion.machine.tensor_memory import keep_freed_memory
from micro_diffusion.machine.threads import yield_when_busy
from micro_diffusion.sampling.grid import to_pil
from micro_diffusion.sampling.guidance import EVERY_LEVEL, ROUTE, check_guidance
from micro_diffusion.sampling.latent_editing import LatentEdit
from micro_diffusion.sampling.start import Between, Seed
from micro_diffusion.sampling.watched import Watched
from micro_diffusion.saved_cascade import CASCADE_FILE, pipeline_of


class Pipeline:
    """Generates images with a trained run.

    Args:
        run: with its weights, on the device that generates.
        name: by which `find_run` finds it again.
        precision: of the network's matrix products.
        sampler: an option of configs/sampler, in place of the run's own.
        levels: an option of configs/levels, in place of the run's own.
        weaker: a run that guidance leads away from, in place of the null condition (autoguidance, arXiv 2406.02507).
        configs: the folder of another configs/sampler and configs/levels.

    Raises:
        ValueError: when the parts of the run, or those of the weaker run, do not fit one another.
    """

    def __init__(
        self,
        run: Run,
        *,
        name: str | None = None,
        precision: Precision = "auto",
        sampler: str | None = None,
        levels: str | None = None,
        weaker: NamedRun | None = None,
        configs: str | Path | None = None,
    ) -> None:
        self.run = run
        self.precision: Precision = precision
        self._name = name or str(run.folder)
        self._sampler, self._levels, self._weaker, self._configs = sampler, levels, weaker, configs
        self.tensors = pipeline_of(run, None if weaker is None else weaker_run(weaker.run, run))
        folder = None if configs is None else Path(configs)
        if sampler is not None or levels is not None:
            chosen = copy.copy(run.sampler) if sampler is None else find_sampler(sampler, folder)
            chosen.levels = run.sampler.levels if levels is None else find_levels(levels, run, folder)
            self.tensors.sampler = chosen

    @classmethod
    def from_run(
        cls,
        run: str | Path,
        *,
        weights: Literal["ema", "raw"] | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "auto",
        sampler: str | None = None,
        levels: str | None = None,
        weaker: str | Path | None = None,
        configs: str | Path | None = None,
    ) -> Pipeline:
        """Load a run.

        Args:
            run: a run folder, the name of one in trained_models, or a bundled one, such as "demo".
            weights: "ema", "raw", or None for the average where there is one.
            device: such as "cuda"; None is the GPU where there is one.
            precision: "auto", "fp32" or "bf16", of the network's matrix products.
            sampler: such as "dpmpp_2m", an option of configs/sampler; None is the run's own.
            levels: such as "exponential", an option of configs/levels; None is the run's own.
            weaker: a run as above, that guidance leads away from in place of the null condition; its averaged weights
                where it has them. "route" is the run itself without the blocks of its route and without a prompt
                (path-drop guidance, arXiv 2510.21986).
            configs: the folder of another configs/sampler and configs/levels.

        Raises:
            FileNotFoundError: when there is no such run, sampler or levels, or a run has no weights yet.
            ValueError: for a device that is not there, or a run that cannot be loaded.
        """
        folder = find_run(run)
        if (folder / CASCADE_FILE).is_file():
            raise ValueError(
                f"{run} is a cascade; `micro-diffusion generate {run}` opens it, here give one of its runs"
            )
        place = usable_device(device)
        keep_freed_memory(place.type)
        yield_when_busy(place.type)
        loaded = load_run(folder, weights=weights, device=place)
        other = None
        if weaker is not None:
            itself = str(weaker) == ROUTE
            other = NamedRun(str(weaker), loaded if itself else load_run(find_run(weaker), device=place))
        return cls(
            loaded, name=str(run), precision=precision, sampler=sampler, levels=levels, weaker=other, configs=configs
        )

    def but_with(
        self, *, sampler: str | None = None, levels: str | None = None, weaker: NamedRun | None = None
    ) -> Pipeline:
        """The same run, whose network is not loaded again, with what is not None in place of this pipeline's.

        Raises:
            FileNotFoundError: when there is no such sampler, or there are no such levels.
            ValueError: when the parts do not fit one another.
        """
        return Pipeline(
            self.run,
            name=self._name,
            precision=self.precision,
            sampler=sampler or self._sampler,
            levels=levels or self._levels,
            weaker=weaker or self._weaker,
            configs=self._configs,
        )

    @property
    def device(self) -> torch.device:
        """That of the network."""
        return self.tensors.backbone.parameter_groups()[0]["parameters"][0].device

    @property
    def resolution(self) -> tuple[int, int]:
        """(H, W) in pixels of the images that the run was trained on."""
        return self.tensors.trained_resolution

    @property
    def sampler_name(self) -> str:
        """The class of the sampler."""
        return type(self.tensors.sampler).__name__

    def __call__(
        self,
        prompts: str | Sequence[str | Between] | None = None,
        *,
        negative_prompt: str = "",
        seed: int | Sequence[int | Between] | None = None,
        generator: torch.Generator | None = None,
        count: int = 1,
        image: ImageSource | None = None,
        mask: ImageSource | None = None,
        batch_size: int = 16,
        on_preview: Callable[[Preview], object] | None = None,
        progress: bool | None = None,
        **settings: Any,
    ) -> list[Image.Image]:
        """Images for prompts; each holds its recipe in `info["recipe"]`.

        Args:
            prompts: one or several; None for those of the run's config.
            negative_prompt: what to go away from.
            seed: an integer, from which image i starts with (seed, i); several give every prompt an image each, and
                seed s the one that `seed=[s]` gives alone. None is the run's own.
            generator: of the noise, in place of a seed; such images have no recipe.
            count: images for each prompt, and for each of several seeds.
            image: to start from; what that does is up to the run and to mask and strength.
            mask: of the image's size, white where pixels are to be generated.
            batch_size: images generated at once.
            on_preview: called after every network call with a `Preview`.
            progress: whether to show a bar; None does where somebody watches.
            **settings: `steps`, `guidance_scale`, `guidance_interval`, `guidance_rescale`, `resolution`, `region`,
                `strength`, `resamplings` and `extend`, see `recipe`.

        Raises:
            ValueError: for settings that are wrong or have no effect, and sizes that do not fit.
        """
        if generator is not None and seed is not None:
            raise ValueError("both a seed and a generator are given; leave one of them out")
        named = {"image": name_of(image), "mask": name_of(mask)}
        recipe = self.recipe(prompts, negative_prompt=negative_prompt, seed=seed, count=count, **named, **settings)
        images = self.make(
            recipe,
            image=image,
            mask=mask,
            seeds=None if generator is None else [generator] * len(recipe.prompts),
            batch_size=batch_size,
            on_preview=on_preview,
            progress=progress,
        )
        if generator is None:
            for index, made in enumerate(images):
                made.info["recipe"] = recipe.only(index).described()
        return images

    def recipe(
        self,
        prompts: str | Sequence[str | Between] | None = None,
        *,
        negative_prompt: str = "",
        seed: int | Sequence[int | Between] | None = None,
        count: int = 1,
        paired: bool = False,
        steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float | None = None,
        resolution: int | tuple[int, int] | None = None,
        image: str | None = None,
        mask: str | None = None,
        region: str | None = None,
        strength: float | None = None,
        resamplings: int | None = None,
        extend: str | None = None,
        sharpness: float = 0.0,
        brightness: float = 0.0,
    ) -> Recipe:
        """All that the images will follow from.

        Args:
            prompts: one or several; None for those of the run's config.
            negative_prompt: what to go away from.
            seed: as for a call.
            count: images for each prompt, and for each of several seeds.
            paired: whether prompt i goes with seed i alone, rather than each prompt with each seed.
            steps: sampling steps; None for those of the sampler.
            guidance_scale: 0 unconditional, 1 conditional, above 1 guided; None for the run's own.
            guidance_interval: noise levels low < sigma <= high that are guided; None for all.
            guidance_rescale: from 0 to 1, how far a guided image gets the deviation that it has without guidance.
            resolution: H = W, or (H, W), in pixels; None for `resolution`.
            image: name of the image to start from.
            mask: name of the mask.
            region: in place of a mask, the half that is generated: left, right, top or bottom; or all.
            strength: share of the steps that is gone from an image, for runs that were not trained on images.
            resamplings: how often each part of the way is gone in inpainting, for such runs.
            extend: the image made larger on one side, such as "right=96", with windows of `resolution`.
            sharpness: added to channel 3 of SDXL's latents, such as 0.1.
            brightness: added to channel 0 of SDXL's latents, such as 0.1.

        Raises:
            ValueError: for settings without effect.
        """
        own = self.run.prompts
        chosen = [prompts] if isinstance(prompts, str) else list(own.captions if prompts is None else prompts)
        texts, started = starts(chosen, own.seed if seed is None else seed, count=count, paired=paired)
        sides = self.resolution if resolution is None else resolution
        recipe = Recipe(
            run=self._name,
            weights=self.run.weights,
            digest=self._digest,
            prompts=tuple(texts),
            seeds=tuple(started),
            negative_prompts=(negative_prompt,) * len(texts),
            steps=self.tensors.sampler.steps if steps is None else steps,
            guidance_scale=own.guidance_scale if guidance_scale is None else guidance_scale,
            guidance_interval=guidance_interval,
            guidance_rescale=guidance_rescale or None,
            resolution=(sides, sides) if isinstance(sides, int) else sides,
            sampler=self._sampler,
            levels=self._levels,
            weaker=None if self._weaker is None else self._weaker.name,
            weaker_digest=None if self._weaker is None else weights_file_digest(self._weaker.run),
            configs=None if self._configs is None else str(self._configs),
            precision="bf16" if computes_in_bf16(self.device.type, self.precision) else "fp32",
            image=image,
            mask=mask,
            region=region,
            strength=strength,
            resamplings=resamplings,
            extend=extend,
            sharpness=sharpness or None,
            brightness=brightness or None,
        )
        check_guidance(
            recipe.guidance_scale,
            guidance_interval or EVERY_LEVEL,
            guidance_rescale or 0.0,
            weaker=self._weaker is not None,
            negative=bool(negative_prompt),
        )
        return recipe

    def check_weights(self, recipe: Recipe) -> None:
        """Warn when the recipe is of other weights than these."""
        used = [
            (self.run, recipe.digest),
            *([] if self._weaker is None else [(self._weaker.run, recipe.weaker_digest)]),
        ]
        for run, digest in used:
            if digest != weights_file_digest(run):
                warnings.warn(
                    f"the {run.weights} weights of {run.folder} are not those of the recipe; images will differ",
                    stacklevel=1,
                )

    @cached_property
    def _digest(self) -> str:
        return weights_file_digest(self.run)

    def make(
        self,
        recipe: Recipe,
        *,
        image: ImageSource | None = None,
        mask: ImageSource | None = None,
        seeds: Sequence[Seed] | None = None,
        batch_size: int = 16,
        on_preview: Callable[[Preview], object] | None = None,
        progress: bool | None = None,
    ) -> list[Image.Image]:
        """The images of a recipe, equal for equal recipes, batch sizes and machines.

        Args:
            recipe: of this run.
            image: the one that the recipe names; None opens the file.
            mask: likewise.
            seeds: what the images start from, in place of the recipe's seeds.
            batch_size: images generated at once.
            on_preview: called after every network call.
            progress: whether to show a bar; None does where somebody watches.

        Raises:
            ValueError: as `__call__`.
        """
        if recipe.extend is not None:

            def window(part: Recipe, shown: Image.Image, unknown: Image.Image) -> Image.Image:
                how = {"batch_size": batch_size, "on_preview": on_preview}
                return self.make(part, image=shown, mask=unknown, progress=False, **how)[0]

            return extended_images(recipe, image or recipe.image, mask, window)
        images = self.make_tensor(
            recipe,
            image=image,
            mask=mask,
            seeds=seeds,
            batch_size=batch_size,
            on_preview=on_preview,
            progress=progress,
        )
        return [to_pil(one) for one in images]

    def make_tensor(
        self,
        recipe: Recipe,
        *,
        image: ImageSource | None = None,
        mask: ImageSource | None = None,
        seeds: Sequence[Seed] | None = None,
        batch_size: int = 16,
        on_preview: Callable[[Preview], object] | None = None,
        progress: bool | None = None,
    ) -> Tensor:
        """As `make`, of a recipe that extends no image -> uint8 (B, 3, H, W) on the CPU."""
        pipeline = copy.copy(self.tensors)
        edit = prepare(pipeline, recipe, image or recipe.image, mask or recipe.mask)
        if on_preview is not None:
            pipeline.sampler = Watched(pipeline.sampler, previews(pipeline, on_preview))
        hidden = not (sys.stderr.isatty() if progress is None else progress)
        bar = tqdm(total=len(recipe.prompts), unit="image", leave=False, disable=hidden)
        with bar, autocast(self.device.type, self.precision):
            images = pipeline.generate(
                recipe.prompts,
                negative=recipe.negative_prompts or "",
                seed=seeds or recipe.seeds,
                guidance_scale=recipe.guidance_scale,
                guidance_interval=recipe.guidance_interval or EVERY_LEVEL,
                guidance_rescale=recipe.guidance_rescale or 0.0,
                resolution=recipe.resolution,
                steps=recipe.steps,
                edit=LatentEdit(sharpness=recipe.sharpness or 0.0, brightness=recipe.brightness or 0.0),
                batch_size=batch_size,
                on_batch=bar.update,
                **edit.arguments,
            )
        return edit.restored(images)
