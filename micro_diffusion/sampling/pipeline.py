"""Captions, and images where the network is conditioned on them, in, images out: the parts of a run joined.

Legend: B images, C latent channels, h w latent height and width, H W image height and width.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from micro_diffusion.autoencoder.autoencoder import Autoencoder
from micro_diffusion.backbone.backbone import Backbone, check_image_conditioner
from micro_diffusion.backbone.class_token import class_features, class_token_of, noise_shape
from micro_diffusion.backbone.embedding import scale_for
from micro_diffusion.condition import Condition
from micro_diffusion.diffusion.denoiser import Denoiser, NoiseLevel
from micro_diffusion.diffusion.image_conditioning import ImageConditioner, ImageInSampling
from micro_diffusion.diffusion.objective import Objective
from micro_diffusion.sampling.given_image import GivenImage, given_image
from micro_diffusion.sampling.guidance import EVERY_LEVEL, WeakerRun, guided_denoiser
from micro_diffusion.sampling.latent_editing import NO_EDIT, LatentEdit
from micro_diffusion.sampling.sampler import Sampler
from micro_diffusion.sampling.start import (
    Between,
    Seed,
    encoded,
    generator_of,
    sources,
    unit_noise,
    with_negative,
)
from micro_diffusion.sampling.thresholding import Thresholding
from micro_diffusion.text.encoder import TextEncoder
from micro_diffusion.text.none import NoEncoder


@runtime_checkable
class Resizable(Protocol):
    """A backbone with positions, built for latents of `sizes` (height, width) in cells, first `input_size`."""

    input_size: tuple[int, int]
    position_scale: float

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """All of them."""
        ...

    def resize(self, input_size: tuple[int, int], position_scale: float) -> None:
        """Build the positions for another size."""
        ...


class Pipeline:
    """Generates images for captions with a trained backbone.

    Args:
        text_encoder: turns captions into features as wide as the backbone's `caption_dim`.
        autoencoder: turns latents of the backbone's `in_channels` into images.
        backbone: the network, on the device and in the mode (`eval`) that it is to run in.
        objective: makes a denoiser of the backbone.
        sampler: walks from noise to latents with that denoiser.
        image_conditioner: makes the backbone's conditioning image, where it takes one, of the image that is given.
        weaker: a run that guidance leads away from, in place of the unconditional denoiser (autoguidance).
        thresholding: keeps denoised latents within the range of pixels; None where they have no such range.

    Raises:
        ValueError: when the parts do not fit one another.
    """

    def __init__(
        self,
        *,
        text_encoder: TextEncoder,
        autoencoder: Autoencoder,
        backbone: Backbone,
        objective: Objective,
        sampler: Sampler,
        image_conditioner: ImageConditioner | None = None,
        weaker: WeakerRun | None = None,
        thresholding: Thresholding | None = None,
    ) -> None:
        if text_encoder.dim != backbone.caption_dim:
            raise ValueError(
                f"the text encoder {text_encoder.name} gives features of width {text_encoder.dim}, but the network "
                f"takes {backbone.caption_dim}; use the text encoder that the network was trained with"
            )
        if autoencoder.channels != backbone.in_channels:
            raise ValueError(
                f"the autoencoder {autoencoder.name} has {autoencoder.channels} latent channels, but the network "
                f"takes {backbone.in_channels}; use the autoencoder that the network was trained with"
            )
        check_image_conditioner(backbone, image_conditioner, "image_conditioner")
        if weaker is not None:
            ours, theirs = class_features(backbone), class_features(weaker.backbone)
            if ours != theirs:
                raise ValueError(
                    f"the weaker run's network has class_token {theirs}, this one {ours}; choose a run with the same"
                )
            for size in ("caption_dim", "in_channels", "image_channels"):
                ours, theirs = getattr(backbone, size), getattr(weaker.backbone, size)
                if ours != theirs:
                    raise ValueError(
                        f"the weaker run's network has {size} {theirs}, this one {ours}; choose a run with the same "
                        "text encoder, autoencoder and image conditioner"
                    )
        self.weaker = weaker
        self.image_conditioner = image_conditioner
        self.thresholding = thresholding
        self.text_encoder = text_encoder
        self.autoencoder = autoencoder
        self.backbone = backbone
        self.objective = objective
        self.sampler = sampler

    @torch.no_grad()
    def generate(
        self,
        captions: Sequence[str | Between],
        *,
        seed: int | Sequence[Seed],
        guidance_scale: float,
        negative: str | Sequence[str] = "",
        image: Tensor | None = None,
        region: str | Tensor | None = None,
        resolution: int | tuple[int, int] | None = None,
        guidance_interval: tuple[float, float] = EVERY_LEVEL,
        guidance_rescale: float = 0.0,
        steps: int | None = None,
        edit: LatentEdit = NO_EDIT,
        batch_size: int = 16,
        on_batch: Callable[[int], object] | None = None,
    ) -> Tensor:
        """One image for each caption, as uint8 (B, 3, H, W) on the CPU.

        Image i starts from noise that follows from (seed, i) alone, so up to rounding it depends neither on
        `batch_size` nor on the other captions.

        Args:
            captions: B texts or points between two, at least one.
            seed: any integer, 0 included; or for each image one, a generator, or a point between two.
            guidance_scale: 0 unconditional, 1 conditional, above 1 guided; all of them see the image that is given.
            negative: what guidance goes away from, in place of the null condition: one text or one for each caption.
            image: (3, H', W') or one for each caption (B, 3, H', W'), uint8, for a run with an image conditioner: the
                image of which a region is known, or the smaller image.
            region: the unknown region of that image: a half's name, such as "right", or a mask (H, W) or (B, 1, H, W),
                bool, true where pixels are to be generated. All others are returned as they were.
            resolution: H = W, or (H, W), in pixels, when not `trained_resolution`; positions are then stretched.
            guidance_interval: noise levels low < sigma <= high that are guided; the others are conditional.
            guidance_rescale: from 0 to 1, how far a guided image gets the deviation that it has without guidance.
            steps: sampling steps, when not the sampler's own number.
            edit: what is added to the latents before they are decoded, for SDXL's autoencoder.
            batch_size: images generated at once.
            on_batch: called after each batch with its number of images.

        Raises:
            ValueError: for a resolution that patches do not fill, fewer than one step, an empty interval, no captions,
                or an image or region that is missing, not wanted or of another size.
        """
        if not captions or batch_size < 1:
            raise ValueError(f"{len(captions)} captions in batches of {batch_size}; give at least one of each")
        negatives = [negative] * len(captions) if isinstance(negative, str) else list(negative)
        if len(negatives) != len(captions) or not (isinstance(seed, int) or len(seed) == len(captions)):
            seeds = 1 if isinstance(seed, int) else len(seed)
            raise ValueError(
                f"{len(captions)} captions came with {len(negatives)} negative ones and {seeds} seeds; give one for "
                "all, or one for each"
            )
        if isinstance(self.text_encoder, NoEncoder) and guidance_scale not in (0, 1):
            raise ValueError(
                f"guidance_scale is {guidance_scale}, but this run has no captions to guide to; set it to 1"
            )
        edit.check(self.autoencoder.channels)
        sampler = copy.copy(self.sampler)
        sampler.steps = self.sampler.steps if steps is None else steps
        batches = []
        size = self.latent_size(self.trained_resolution if resolution is None else resolution)
        if isinstance(self.backbone, Resizable) and size not in self.backbone.sizes:
            known = ", ".join(f"{height}×{width}" for height, width in self.backbone.sizes)
            warnings.warn(
                f"the network was trained on latents of {known} cells; for {size[0]}×{size[1]} its positions "
                "are stretched, which it has not learned",
                stacklevel=1,
            )
        given = self._given(image, region, count=len(captions), latent_size=size)
        with sized(self.backbone, size), sized(None if self.weaker is None else self.weaker.backbone, size):
            for start in range(0, len(captions), batch_size):
                chunk = captions[start : start + batch_size]
                rows = slice(start, start + len(chunk))
                from_noise = sources(seed, start, len(chunk))
                guidance = {"scale": guidance_scale, "interval": guidance_interval, "rescale": guidance_rescale}
                seen = None if given is None else given.rows(rows)
                batches.append(self._generate(chunk, negatives[rows], from_noise, size, sampler, guidance, seen, edit))
                if on_batch is not None:
                    on_batch(len(chunk))
        return torch.cat(batches)

    @property
    def trained_resolution(self) -> tuple[int, int]:
        """(H, W) in pixels of the images that the backbone was built for.

        Raises:
            ValueError: when it was built for no size in particular.
        """
        size = getattr(self.backbone, "input_size", None)
        if size is None:
            raise ValueError(f"{type(self.backbone).__name__} was built for no size in particular; give a resolution")
        height, width = size
        return height * self.autoencoder.downsampling, width * self.autoencoder.downsampling

    def latent_size(self, resolution: int | tuple[int, int]) -> tuple[int, int]:
        """(h, w) of the latents of an image of this resolution.

        Raises:
            ValueError: when a side is not divisible by the side of a patch in pixels; names the nearest that are.
        """
        height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
        factor, patch = self.autoencoder.downsampling, self.backbone.patch_size
        for side in (height, width):
            if side < 1 or side % (factor * patch):
                below = side // (factor * patch) * factor * patch
                nearest = " or ".join(str(near) for near in (below, below + factor * patch) if near > 0)
                raise ValueError(
                    f"resolution {side} is not divisible by {factor * patch} (the autoencoder's downsampling {factor} "
                    f"times the network's patch size {patch}); use {nearest}"
                )
        return height // factor, width // factor

    def _generate(
        self,
        captions: Sequence[str | Between],
        negatives: Sequence[str],
        from_noise: Sequence[torch.Generator | Between],
        latent_size: tuple[int, int],
        sampler: Sampler,
        guidance: dict[str, Any],
        given: GivenImage | None,
        edit: LatentEdit,
    ) -> Tensor:
        """One batch -> uint8 (B, 3, H, W) on the CPU."""
        device = self.backbone.parameter_groups()[0]["parameters"][0].device
        shape = noise_shape(self.backbone, latent_size)
        noise = torch.stack([unit_noise(source, shape) for source in from_noise]).to(device)
        generators = [generator_of(source) for source in from_noise]
        condition, negative = self._conditions(captions, negatives)
        condition = condition.to(device=device, dtype=noise.dtype)
        seen = None if given is None else self._seen(given, latent_size, generators, device)
        if seen is not None:
            condition = condition._replace(image=seen.image, image_level=seen.level)
        if negative is not None:
            negative = condition._replace(tokens=negative.tokens.to(condition.tokens), mask=negative.mask)
            negative = negative.to(device=device)
        span = {"sigma_min": self.objective.sigma_min, "sigma_max": self.objective.sigma_max}
        sigmas = sampler.sigmas(**span)
        asked = sampler.asked(sigmas)
        denoiser = guided_denoiser(
            self.objective,
            self.backbone,
            condition,
            **guidance,
            negative=negative,
            sigmas=asked,
            weaker=self.weaker,
        )
        if self.thresholding is not None:
            denoiser = of_image(self.thresholding, self.backbone)(denoiser)
        if seen is not None:
            denoiser = seen.keeps_known(denoiser)
        latents = sampler(denoiser, noise, sigmas=sigmas, generators=generators)
        images = self.decoded(edit(latents))
        return images if given is None else given.restored(images)

    def decoded(self, latents: Tensor) -> Tensor:
        """What the denoiser makes, (B, C, h, w) and below it the rows of a class token -> uint8 (B, 3, H, W), CPU."""
        token = class_token_of(self.backbone)
        image = latents if token is None else token.split(latents)[0]
        return to_uint8(self.autoencoder.decode(image)).cpu()

    def _conditions(
        self, captions: Sequence[str | Between], negatives: Sequence[str]
    ) -> tuple[Condition, Condition | None]:
        """The captions' condition, and what guidance goes away from where that is not the null condition."""
        if not any(negatives):
            return encoded(self.text_encoder, captions), None
        both = encoded(self.text_encoder, [*captions, *negatives])
        condition, negative = (
            both._replace(tokens=both.tokens[rows], mask=None if both.mask is None else both.mask[rows])
            for rows in (slice(len(captions)), slice(len(captions), None))
        )
        return condition, with_negative(condition, negative, [bool(text) for text in negatives])

    def _given(
        self, image: Tensor | None, region: str | Tensor | None, *, count: int, latent_size: tuple[int, int]
    ) -> GivenImage | None:
        """The image and region that `generate` is given, checked, for each of `count` captions."""
        if self.image_conditioner is None:
            if image is None and region is None:
                return None
            raise ValueError(
                "an image or a region is given, but this run takes none (its config has no image_conditioner); leave "
                "it out, or use a run that was trained with one"
            )
        if image is None:
            raise ValueError(
                f"this run generates from an image ({type(self.image_conditioner).__name__}), but is given none; give "
                "one with image="
            )
        height, width = (side * self.autoencoder.downsampling for side in latent_size)
        return given_image(image, region, count, self.image_conditioner.given_pixels((height, width)))

    def _seen(
        self,
        given: GivenImage,
        latent_size: tuple[int, int],
        generators: list[torch.Generator],
        device: torch.device,
    ) -> ImageInSampling:
        """What the backbone sees of the given image, on `device`."""
        assert self.image_conditioner is not None
        latents = self.autoencoder.encode(given.images.to(device) / 127.5 - 1, sample=False).float().to(device)
        unknown = given.unknown_cells(latent_size)
        unknown = None if unknown is None else unknown.to(device)
        return self.image_conditioner.in_sampling(latents, latent_size, generators, unknown)


@contextmanager
def sized(backbone: Backbone | None, latent_size: tuple[int, int]) -> Iterator[None]:
    """A backbone made for latents of this size, for a while; its positions then span the same range.

    A backbone without positions takes any size as it is.
    """
    if not isinstance(backbone, Resizable) or latent_size in backbone.sizes:
        yield
        return
    trained_size, trained_scale = backbone.input_size, backbone.position_scale
    backbone.resize(latent_size, scale_for(latent_size, trained_size, trained_scale))
    try:
        yield
    finally:
        backbone.resize(trained_size, trained_scale)


def of_image(thresholding: Thresholding, backbone: Backbone) -> Thresholding:
    """Thresholding that leaves the vector of a class token as it is."""
    token = class_token_of(backbone)
    if token is None:
        return thresholding

    def wrapped(denoiser: Denoiser) -> Denoiser:
        def denoise(x: Tensor, sigma: NoiseLevel) -> Tensor:
            image, vector = token.split(denoiser(x, sigma))
            return token.join(thresholding(lambda x, sigma: image)(x, sigma), vector)

        return denoise

    return wrapped


def to_uint8(images: Tensor) -> Tensor:
    """Float images in [-1, 1] -> uint8 in 0..255, rounded to nearest."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
