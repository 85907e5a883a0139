"""Classes, or no captions at all, from the source to images: names come from the data and stay in the run folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image

from micro_diffusion.autoencoder.kl import KLAutoencoder
from micro_diffusion.checkpoint import load_run, read_config
from micro_diffusion.data.format.caption_formats import EXACT_CAPTIONS, CaptionIds
from micro_diffusion.data.format.metadata import LatentMetadata
from micro_diffusion.data.prepare.convert import convert
from micro_diffusion.data.prepare.engine import Processes
from micro_diffusion.data.prepare.precompute import precompute
from micro_diffusion.data.prepare.preparation import Preparation
from micro_diffusion.data.sources.source import CaptionedImage
from micro_diffusion.data.stream.loader import build_loader
from micro_diffusion.sampling.pipeline import Pipeline
from micro_diffusion.text.classes import ClassEncoder
from micro_diffusion.text.encoder import TextEncoder
from micro_diffusion.text.none import NoEncoder
from tests.small_training import train_here

COLOURS = ["red", "navy", "lime"]


@dataclass(frozen=True)
class Coloured:
    """Images of one colour, which is their class."""

    def __len__(self) -> int:
        return 12

    def parts(self) -> range:
        return range(1)

    def read(self, part: int) -> Iterator[CaptionedImage]:
        for i in range(len(self)):
            yield CaptionedImage(Image.new("RGB", (16, 16), COLOURS[i % 3]), COLOURS[i % 3], f"image-{i}")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    convert(source=Coloured(), out=folder / "images", preparation=Preparation(), engine=Processes(count=1))
    return folder / "images"


def make_latents(images: Path, out: Path, text_encoder: TextEncoder, caption_format=EXACT_CAPTIONS) -> LatentMetadata:
    precompute(
        images=images, out=out, resolutions=[16], autoencoder=KLAutoencoder.load("bundled:autoencoder"),
        text_encoder=text_encoder, caption_format=caption_format, batch_size=8, workers=0,
    )  # fmt: skip
    return LatentMetadata.read(out)


def generated(run_folder: Path, captions: list[str], scale: float) -> torch.Tensor:
    run = load_run(run_folder)
    made = Pipeline(
        text_encoder=run.text_encoder,
        autoencoder=run.autoencoder,
        backbone=run.backbone,
        objective=run.objective,
        sampler=run.sampler,
    )
    return made.generate(captions, seed=0, guidance_scale=scale)


SHORT = ["trainer.max_duration=2ba", "algorithms.ema.start=1ba", "sampler.steps=1", "backbone.use_caption_mask=false"]


@pytest.mark.parametrize("stored", ["ids", "features"])
def test_classes_are_named_by_the_data_and_kept_by_the_run(images, tmp_path, stored):
    metadata = make_latents(
        images, tmp_path / "latents", ClassEncoder(names=None), CaptionIds() if stored == "ids" else EXACT_CAPTIONS
    )
    names = sorted(COLOURS)
    assert (metadata.encoders["text_encoder"]["names"], metadata.caption_dim, metadata.caption_length) == (names, 3, 1)
    batch = next(iter(build_loader(path=str(tmp_path / "latents"), resolution=16, batch_size=12, shuffle=False)))
    numbers = batch["caption_ids"][:, 0] if stored == "ids" else batch["caption_tokens"][:, 0].argmax(dim=1)
    assert [names[number] for number in numbers] == batch["caption"]

    variant = ["+variant=token_ids"] if stored == "ids" else []
    train_here(tmp_path, "exp_name=run", "text_encoder=classes", *variant, *SHORT, "prompts.captions=[red,lime]")
    node = read_config(tmp_path / "runs" / "run")["text_encoder"]
    assert (node["names"], node["dim"]) == (names, 3)
    by_name, by_number = (generated(tmp_path / "runs" / "run", asked, 3.0) for asked in (["red"], ["2"]))
    assert torch.equal(by_name, by_number)
    with pytest.raises(ValueError, match="no class 'blue'; give a number from 0 to 2, or one of the names lime, navy"):
        generated(tmp_path / "runs" / "run", ["blue"], 3.0)


def test_a_prompt_of_no_class_is_known_before_training(images, tmp_path):
    make_latents(images, tmp_path / "latents", ClassEncoder(names=None))
    with pytest.raises(ValueError, match="no class 'blue'"):
        train_here(tmp_path, "exp_name=run", "text_encoder=classes", *SHORT, "prompts.captions=[blue]")


def test_an_autoencoder_of_another_factor_than_the_latents_is_refused(images, tmp_path):
    make_latents(images, tmp_path / "latents", ClassEncoder(names=None))
    other = ["autoencoder.downsampling=8", "backbone.input_size=4"]
    with pytest.raises(ValueError, match=r"downsampling is 8, but .*, which made the data, has 4; set autoencoder to"):
        train_here(tmp_path, "exp_name=run", "text_encoder=classes", *SHORT, *other, "prompts.captions=[lime]")


def test_names_of_other_classes_than_those_of_the_data_are_refused(images, tmp_path):
    make_latents(images, tmp_path / "latents", ClassEncoder(names=None))
    arguments = ["text_encoder=classes", "text_encoder.names=[lime,navy,blue]", *SHORT, "prompts.captions=[lime]"]
    with pytest.raises(ValueError, match="another text_encoder made the data .* names"):
        train_here(tmp_path, "exp_name=run", *arguments)


def test_data_of_another_encoder_name_no_classes(images, tmp_path):
    with pytest.raises(FileNotFoundError, match="is not there to say which classes it has; set text_enc"):
        train_here(tmp_path, "exp_name=run", "text_encoder=classes", *SHORT)
    make_latents(images, tmp_path / "latents", NoEncoder())
    with pytest.raises(ValueError, match="was not made with text_encoder=classes; precompute it with that"):
        train_here(tmp_path, "exp_name=run", "text_encoder=classes", *SHORT)


def test_a_run_without_captions(images, tmp_path):
    make_latents(images, tmp_path / "latents", NoEncoder())
    arguments = ["exp_name=run", "text_encoder=none", "prompts=none", *SHORT]
    with pytest.raises(
        ValueError, match=r"caption_drop=0.1 has no effect with text_encoder=none, .* set model.caption"
    ):
        train_here(tmp_path, *arguments, "prompts.captions=['']")
    train_here(tmp_path, *arguments, "prompts.captions=['','']", "model.caption_drop=0")
    assert generated(tmp_path / "runs" / "run", ["", ""], 1.0).shape == (2, 3, 16, 16)
    assert (tmp_path / "runs" / "run" / "samples" / "step_0000002.png").is_file()


def test_a_stage_starts_from_one_without_image(images, tmp_path):
    make_latents(images, tmp_path / "latents", NoEncoder())
    shared = ["text_encoder=none", "prompts=none", "prompts.captions=['']", "model.caption_drop=0", *SHORT]
    train_here(tmp_path, "exp_name=first", *shared)
    arguments = ["image_conditioner=known_region", f"init_from={tmp_path}/runs/first", "init_weights=raw"]
    train_here(tmp_path, "exp_name=second", *shared, *arguments)
    backbone = read_config(tmp_path / "runs" / "second")["backbone"]
    assert backbone["image_channels"] == backbone["in_channels"] + 1
    run = load_run(tmp_path / "runs" / "second")
    assert run.image_conditioner is not None and run.backbone.image_embedding.weight.abs().sum() > 0
