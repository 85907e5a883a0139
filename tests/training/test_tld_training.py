"""The small stages of transformer latent diffusion in a row: train, go on at twice the size, then complete images."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from micro_diffusion.backbone.conv_transformer import ConvTransformer
from micro_diffusion.checkpoint import initialise_from, load_backbone, load_run
from micro_diffusion.sampling.pipeline import Pipeline
from micro_diffusion.training.build import train
from micro_diffusion.training.config_checks.resolvers import register_resolvers
from tests.small_training import ROOT, losses, make_latents

SMALL = [
    "backbone.dim=32",
    "backbone.depth=2",
    "backbone.heads=2",
    "backbone.noise_features=16",
    "train_loader.batch_size=4",
    "eval_loader.batch_size=8",
    "algorithms.ema.start=2ba",
    "prompts.captions=[a large red circle on a white background]",
    "sampler.steps=2",
    "machine=cpu",
    "trainer.max_duration=6ba",
]


def trained(folder: Path, stage: str, resolution: int, *overrides: str) -> Path:
    data = [f"{part}_loader.path={folder}/{resolution}/latents" for part in ("train", "eval")]
    register_resolvers()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        named = [f"output_dir={folder}/runs", f"resolution={resolution}", *data, *SMALL, *overrides]
        train(compose(stage, overrides=named))
    assert len(losses(folder / "runs" / stage)) == 6
    return folder / "runs" / stage


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tld")
    for resolution in (16, 32):
        make_latents(folder / str(resolution), 12, resolution=resolution)
    stages = {"quickstart_32_tld": 16, "quickstart_64_tld": 32, "quickstart_64_tld_outpaint": 32}
    return {stage: trained(folder, stage, resolution) for stage, resolution in stages.items()}


def network(run: Path) -> ConvTransformer:
    made = load_backbone(run)
    assert isinstance(made, ConvTransformer)
    return made


def test_a_later_stage_has_the_positions_of_the_first_and_twice_the_grid(runs):
    first, later = (network(runs[stage]) for stage in ("quickstart_32_tld", "quickstart_64_tld"))
    assert first.positions.shape == later.positions.shape == (32, 2, 2)
    assert (first.grid, later.grid) == ((2, 2), (4, 4))
    assert 0 < (first.positions - later.positions).abs().max() < 0.5


def test_an_outpainting_stage_starts_as_the_run_that_it_starts_from(runs):
    plain, wide = network(runs["quickstart_64_tld"]), network(runs["quickstart_64_tld_outpaint"])
    assert wide.image_embedding is not None and wide.image_channels == 5
    assert wide.image_embedding.weight.any(), "training has moved the new weights"
    initialise_from(wide, runs["quickstart_64_tld"])
    run = load_run(runs["quickstart_64_tld"])
    x, level, condition = torch.randn(1, 4, 8, 8), torch.rand(1), run.text_encoder.encode(["a red circle"])
    completed = condition._replace(image=torch.randn(1, 5, 8, 8))
    wide.image_embedding.weight.data.zero_()
    torch.testing.assert_close(wide(x, level, completed).value, plain(x, level, condition).value)


def test_the_known_region_stays_and_the_unknown_one_is_generated(runs):
    run = load_run(runs["quickstart_64_tld_outpaint"])
    parts = ("text_encoder", "autoencoder", "backbone", "objective", "sampler", "image_conditioner")
    pipeline = Pipeline(**{part: getattr(run, part) for part in parts})
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    made = pipeline.generate(["a red circle"], seed=0, guidance_scale=2.0, image=image, region="right")[0]
    assert torch.equal(made[:, :, :16], image[:, :, :16])
    assert (made[:, :, 16:] != image[:, :, 16:]).float().mean() > 0.5
