"""Images of 4:3, and of several shapes in one run, from their latents to generated ones."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from micro_diffusion.autoencoder.kl import KLAutoencoder
from micro_diffusion.cli.entry import main
from micro_diffusion.data.format.buckets import read_buckets
from micro_diffusion.data.format.caption_formats import CaptionFeatures
from micro_diffusion.data.format.latent_formats import Int8Latents
from micro_diffusion.data.format.metadata import LatentMetadata
from micro_diffusion.data.image.crops import AspectRatioBucket, AspectRatioBuckets
from micro_diffusion.data.prepare.bucket_folder import BucketFolder
from micro_diffusion.data.prepare.convert import convert
from micro_diffusion.data.prepare.precompute import precompute
from micro_diffusion.data.prepare.preparation import Preparation
from micro_diffusion.data.sources.image_folder import ImageFolder
from micro_diffusion.data.stream.integrity import check_folder
from micro_diffusion.text.tiny import TinyTextEncoder
from micro_diffusion.training.build import train
from micro_diffusion.training.config_checks.resolvers import register_resolvers
from tests.small_training import ROOT, losses, make_latents, train_here


@pytest.mark.parametrize("padded", [True, False])
def test_rectangular_latents_are_trained_on_and_drawn(tmp_path, padded, capsys):
    make_latents(tmp_path, 24)
    precompute(
        images=tmp_path / "images",
        out=tmp_path / "rectangles",
        resolutions=[32],
        autoencoder=KLAutoencoder.load("bundled:autoencoder"),
        text_encoder=TinyTextEncoder(dim=192, max_length=18, window=6),
        crop=AspectRatioBucket(ratio="4:3", among=("4:3",), multiple=8),
        latent_format=Int8Latents(),
        caption_format=CaptionFeatures(dtype="int8", padded=padded),
    )
    loaders = [f"{name}_loader.path={tmp_path}/rectangles" for name in ("train", "eval")]
    network = ["resolution=32", "backbone.input_size=[6,10]", "backbone.use_caption_mask=true"]
    train_here(tmp_path, "exp_name=wide", *loaders, *network, "trainer.max_duration=20ba")
    found = losses(tmp_path / "runs" / "wide")
    assert sorted(found) == list(range(20)) and all(torch.tensor(list(found.values())).isfinite())
    grid = Image.open(tmp_path / "runs" / "wide" / "samples" / "step_0000020.png")
    assert grid.width > grid.height  # one image, and its caption below
    drawing = ["--seed", "0", "--steps", "2", "--out", str(tmp_path / "out.png")]
    main(["generate", str(tmp_path / "runs" / "wide"), "a large red circle", *drawing])
    assert Image.open(tmp_path / "out.png").size == (40, 24)
    assert main(["evaluate", str(tmp_path / "runs" / "wide"), "--out", str(tmp_path / "scores.json")]) == 2
    assert "wide generates 24×40, but only square images can be judged; use generate" in capsys.readouterr().err


SEVERAL = {"1:1": (32, 32), "4:3": (40, 24), "3:4": (24, 40)}
COUNTS = (9, 6, 5)


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A folder with `images` of three shapes and their `latents`, a bucket for each shape; killer.py as well."""
    folder = tmp_path_factory.mktemp("several")
    make_latents(folder, 1)
    sources = folder / "sources"
    sources.mkdir()
    for (name, size), count in zip(SEVERAL.items(), COUNTS, strict=True):
        width, height = map(int, name.split(":"))
        for i in range(count):
            path = sources / f"{name.replace(':', 'x')}-{i}.png"
            Image.effect_noise((size[0] * 3, size[0] * 3 * height // width), 20 + i).convert("RGB").save(path)
            path.with_suffix(".txt").write_text(f"noise number {i}")
    convert(source=ImageFolder(path=str(sources)), out=folder / "several", preparation=Preparation())
    precompute(
        images=folder / "several",
        out=folder / "buckets",
        resolutions=[32],
        autoencoder=KLAutoencoder.load("bundled:autoencoder"),
        text_encoder=TinyTextEncoder(dim=192, max_length=18, window=6),
        crop=AspectRatioBuckets(ratios=[*SEVERAL, "16:9"], multiple=8),
    )
    return folder


def train_several(folder, name, *arguments, config="quickstart_32_pretrain"):
    loaders = [f"{part}_loader.path={folder}/buckets" for part in ("train", "eval")]
    batches = ["train_loader.batch_size=4", "train_loader.drop_last=false", "eval_loader.batch_size=8"]
    small = ["machine=cpu", "prompts.captions=[noise]", "sampler.steps=2", "algorithms.ema.start=2ba"]
    length = ["trainer.max_duration=14ba", "trainer.eval_interval=7ba"]  # two epochs
    register_resolvers()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        named = [f"exp_name={name}", f"output_dir={folder}/runs", *loaders, *batches, *small, *length, *arguments]
        train(compose(config, overrides=named))
    return folder / "runs" / name


def test_the_buckets_hold_every_image_once_and_are_left_alone_when_complete(several, caplog):
    assert read_buckets(several / "buckets") == {"1x1": 9, "4x3": 6, "3x4": 5}  # and no image is nearest to 16:9
    sizes = [LatentMetadata.read(several / "buckets" / name).latent_size(32) for name in ("1x1", "4x3", "3x4")]
    assert sizes == [(8, 8), (6, 10), (10, 6)]
    with pytest.raises(FileExistsError, match=r"was made with other aspect ratios \(3x4 among them\); remove it"):
        BucketFolder(several / "buckets", ["1x1", "4x3"]).check()
    with pytest.raises(FileNotFoundError, match="name one of them: 1x1, 4x3, 3x4"):
        check_folder(several / "buckets", command="")


def test_a_network_without_the_sizes_of_the_data_is_told_what_to_set(several):
    with pytest.raises(ValueError, match=r"latents of 8×8 and 6×10 and 10×6 cells, .* built for 8×8; set "
                       r"backbone.further_sizes=\[\[6,10\],\[10,6\]\]$"):  # fmt: skip
        train_several(several, "unset")


FURTHER = "backbone.further_sizes=[[6,10],[10,6]]"
NETWORKS = {
    "sparse": ["backbone.dim=32", "backbone.depth=3", "backbone.mixer_dim=32", "backbone.mixer_depth=1", FURTHER],
    "tld": ["backbone.dim=32", "backbone.depth=2", "backbone.heads=2", FURTHER],
    "unet": [
        "backbone=unet_small",
        "backbone.multipliers=[1,2]",
        "backbone.width=8",
        "backbone.groups=8",
        "backbone.attention=[1]",
        "backbone.cross_attention=true",
        "model.train_mask_ratio=0",
        "optimizer=adamw",
    ],
}


@pytest.mark.parametrize("network", NETWORKS)
def test_one_run_trains_on_several_shapes_and_generates_each(several, network, recwarn):
    config = "quickstart_32_tld" if network == "tld" else "quickstart_32_pretrain"
    run = train_several(several, network, *NETWORKS[network], config=config)
    found = losses(run)
    assert sorted(found) == list(range(14)) and all(torch.tensor(list(found.values())).isfinite())
    evaluated = [line for line in (run / "metrics.jsonl").read_text().splitlines() if "metrics/eval/loss" in line]
    assert evaluated and "NaN" not in "".join(evaluated)
    for width, height in SEVERAL.values():
        drawing = ["--seed", "0", "--steps", "2", "--resolution", f"{height}x{width}", "--out", f"{several}/out.png"]
        main(["generate", str(run), "noise number 1", *drawing])
        assert Image.open(several / "out.png").size == (width, height)
    assert not [warning for warning in recwarn if "stretched" in str(warning.message)]


def test_a_run_on_several_shapes_goes_on_within_an_epoch_as_if_nothing_had_happened(several, monkeypatch):
    """Stopped where the shorter batches of the first epoch begin, and then among the whole ones of the second."""
    monkeypatch.syspath_prepend(several)
    small = NETWORKS["tld"]
    whole = losses(train_several(several, "whole", *small, config="quickstart_32_tld"))
    for step in (5, 9):
        told = f"+callbacks.kill={{_target_: killer.KillAt, step: {step}, name: SIGTERM}}"
        with pytest.raises(SystemExit):
            train_several(several, "resumed", *small, told, config="quickstart_32_tld")
    assert losses(train_several(several, "resumed", *small, config="quickstart_32_tld")) == whole
