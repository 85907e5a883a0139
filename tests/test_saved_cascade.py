"""Cascades: stages in order, one after another or from the middle, and saved as one folder."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from PIL import Image

from micro_diffusion import cli
from micro_diffusion.checkpoint import save_weights, write_config
from micro_diffusion.sampling.cascade import Cascade, Stage, stage_seed
from micro_diffusion.saved_cascade import CASCADE_FILE, open_cascade, save_cascade
from tests.run_folder import BACKBONE, random_backbone

PARTS = {
    "text_encoder": {"_target_": "micro_diffusion.text.tiny.TinyTextEncoder", "dim": 6, "max_length": 6},
    "autoencoder": {"_target_": "micro_diffusion.autoencoder.identity.IdentityAutoencoder", "downsampling": 1},
    "objective": {"_target_": "micro_diffusion.diffusion.edm.EDM", "sigma_data": 0.5, "P_mean": -1.2, "P_std": 1.2},
    "sampler": {"_target_": "micro_diffusion.sampling.euler.EulerSampler", "steps": 2},
    "thresholding": {"_target_": "micro_diffusion.sampling.thresholding.DynamicThresholding"},
    "prompts": {"_target_": "micro_diffusion.sampling.prompts.Prompts", "captions": ["a dot"], "guidance_scale": 1.0},
}


def make_run(folder: Path, side: int, factor: int | None = None, *, trained: bool = True) -> Path:
    """A run of `side` pixels, with random weights, of which the last are not zero."""
    backbone = {
        "_target_": "micro_diffusion.backbone.pixel_unet.PixelUNet",
        "input_size": side,
        "in_channels": 3,
        "caption_dim": 6,
        "max_text_length": 6,
        "dim": 8,
        "dim_mults": [1, 2],
        "heads": 2,
        "head_dim": 4,
        "text_latents": 2,
        "image_channels": 3 if factor else 0,
        "takes_image_level": factor is not None,
    }
    config = {"backbone": backbone, **PARTS}
    if factor:
        target = "micro_diffusion.diffusion.low_resolution.LowResolution"
        config["image_conditioner"] = {"_target_": target, "factor": factor}
    torch.manual_seed(side)
    network = instantiate(backbone, _convert_="all")
    torch.nn.init.normal_(network.final.weight, std=0.1)
    if trained:
        save_weights(folder, network.state_dict(), "raw")
    folder.mkdir(exist_ok=True)
    write_config(folder, config)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    return [make_run(root / "base", 4), make_run(root / "sr_8", 8, 2), make_run(root / "sr_16", 16, 2)]


def test_every_stage_gives_its_images_and_can_be_the_first(runs):
    cascade = open_cascade(runs)
    made = list(cascade.run(["a dot", "a line"], seed=3, batch_size=1))
    assert [stage.name for stage in made] == ["base", "sr_8", "sr_16"]
    assert [tuple(stage.images.shape) for stage in made] == [(2, 3, side, side) for side in (4, 8, 16)]
    again = list(cascade.run(["a dot", "a line"], seed=3, image=made[0].images, stop=1))
    assert [stage.name for stage in again] == ["sr_8"]
    torch.testing.assert_close(again[0].images.int(), made[1].images.int(), rtol=0, atol=1)  # in other batches
    first = list(cascade.run(["a dot"], seed=3, stop=0))
    torch.testing.assert_close(first[0].images[0].int(), made[0].images[0].int(), rtol=0, atol=1)
    other = list(cascade.run(["a dot"], seed=3, steps=[None, 1, 1], guidance_scales=[None, 0.0, 4.0]))
    assert torch.equal(other[0].images, first[0].images)
    assert not torch.equal(other[1].images[0], made[1].images[0])


def test_latents_of_a_sparse_dit_are_enlarged_by_the_same_mechanism(tmp_path):
    """As `generate 256_finetune 512_enlarge` does, whose images are latents of an autoencoder."""
    small = make_latent_run(tmp_path / "small", 4)
    large = make_latent_run(tmp_path / "large", 8, factor=2)
    made = list(open_cascade([small, large]).run(["a dot"], seed=3))
    assert [tuple(stage.images.shape) for stage in made] == [(1, 3, 16, 16), (1, 3, 32, 32)]
    other = next(open_cascade([small, large]).run(["a dot"], seed=3, image=255 - made[0].images))
    assert not torch.equal(other.images, made[1].images)  # the smaller image is seen


def make_latent_run(folder: Path, side: int, factor: int | None = None) -> Path:
    """A sparse DiT on latents of the bundled autoencoder, `side` cells."""
    seen = {"image_channels": 4, "takes_image_level": True} if factor else {}
    sizes = {"input_size": side, "in_channels": 4, "patch_size": 2, "caption_dim": 6, **seen}
    backbone = random_backbone(side, **sizes)
    autoencoder = {"_target_": "micro_diffusion.autoencoder.saved.load_autoencoder", "path": "bundled:autoencoder"}
    target = "micro_diffusion.backbone.dit.SparseDiT"
    config = {**PARTS, "autoencoder": autoencoder, "backbone": {"_target_": target, **BACKBONE, **sizes}}
    if factor:
        target = "micro_diffusion.diffusion.low_resolution.LowResolution"
        config["image_conditioner"] = {"_target_": target, "factor": factor}
    del config["thresholding"]
    write_config(folder, config)
    save_weights(folder, backbone.state_dict(), "raw")
    return folder


def test_one_network_is_there_at_a_time():
    there, most = [], []

    class Fake:
        def __init__(self, side):
            self.side = side
            there.append(side)
            most.append(len(there))

        def __del__(self):
            there.remove(self.side)

        def generate(self, captions, *, image, resolution, **options):
            return torch.zeros(len(captions), 3, *resolution, dtype=torch.uint8)

    stages = [Stage(str(s), (s, s), (s // 2, s // 2) if s > 4 else None, lambda s=s: Fake(s)) for s in (4, 8, 16)]
    assert len(list(Cascade(stages).run(["x"], seed=0))) == 3
    assert most == [1, 1, 1]
    assert there == []


def test_stages_draw_noise_of_their_own():
    seeds = [stage_seed(seed, number) for seed in (0, 1) for number in range(3)]
    assert len(set(seeds)) == 6
    assert stage_seed(5, 0) == 5


def test_a_saved_cascade_can_be_passed_around(runs, tmp_path):
    save_cascade(runs, tmp_path / "made")
    shutil.move(tmp_path / "made", tmp_path / "moved")
    a, b = (list(open_cascade(folders).run(["a dot"], seed=1)) for folders in (runs, [tmp_path / "moved"]))
    assert all(torch.equal(x.images, y.images) for x, y in zip(a, b, strict=True))
    with pytest.raises(FileExistsError, match="is a cascade already"):
        save_cascade(runs, tmp_path / "moved")
    shutil.move(tmp_path / "moved" / "sr_8", tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="names the stage sr_8, but .* move it back"):
        open_cascade([tmp_path / "moved"])
    (tmp_path / "moved" / CASCADE_FILE).write_text("stages: 3\n")
    with pytest.raises(ValueError, match="no list of stages"):
        open_cascade([tmp_path / "moved"])


def test_stages_that_do_not_follow_are_refused(runs, tmp_path):
    base, middle, last = runs
    for folders, message in (
        ([middle, base], "base is a base model, .* but stands after sr_8; put it first"),
        ([base, last], "sr_16 enlarges images of 8×8 pixels, but base, .* makes 4×4"),
        ([base, last, middle], "in the order of their resolutions"),
        ([], "without stages"),
    ):
        with pytest.raises(ValueError, match=message):
            open_cascade(folders)
    with pytest.raises(FileNotFoundError, match="its training has not finished"):
        open_cascade([base, make_run(tmp_path / "untrained", 8, 2, trained=False)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": torch.zeros(3, 5, 5, dtype=torch.uint8)}, "image has 5×5 pixels, but no stage enlarges such a one"),
        (
            {"image": torch.zeros(3, 4, 4, dtype=torch.uint8), "start": 0},
            "base is a base model, which takes no",
        ),
        ({"start": 1}, "sr_8 enlarges an image of 4×4 pixels, but is given none"),
        ({"start": 3}, "there is no stage 3; choose one from 0 to 2"),
        ({"stop": 3}, "choose one from 0 to 2"),
        ({"image": torch.zeros(3, 8, 8, dtype=torch.uint8), "stop": 1}, "starts with 2"),
        ({"steps": [3, 4]}, "there are 2 numbers of steps for 3 stages"),
        ({"guidance_scales": [1.0]}, "there are 1 guidance scales for 3 stages"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(runs, options, message):
    with pytest.raises(ValueError, match=message):
        open_cascade(runs).run(["x"], seed=0, **options)


def test_a_base_model_given_a_small_image_is_refused(runs):
    with pytest.raises(ValueError, match="a base model takes none; there is no other"):
        open_cascade(runs[:1]).run(["x"], seed=0, image=torch.zeros(3, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="no base model before it, and no image is given"):
        open_cascade(runs[1:]).run(["x"], seed=0)


def command(*arguments) -> int:
    return cli.main([str(argument) for argument in arguments])


def refused(capsys, *arguments) -> str:
    capsys.readouterr()
    assert command(*arguments) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_the_command_line_runs_several_runs_in_a_row(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command("generate", *runs, "a dot", "--out", "last.png", "--seed", 1) == 0
    assert Image.open("last.png").size == (16, 16)
    assert command("generate", *runs, "a dot", "a line", "--all-stages", "--out", "all", "--stage-steps", "3,1,1") == 0
    sizes = {path.parent.name: Image.open(path).size[0] for path in Path("all").glob("*/0001.png")}
    assert sizes == {"base": 4, "sr_8": 8, "sr_16": 16}
    assert command("export", *runs, "together") == 0
    assert command("generate", "together", "a dot", "--seed", 1, "--out", "again.png") == 0
    assert Image.open("again.png").tobytes() == Image.open("last.png").tobytes()
    small = ["--image", "all/base/0000.png", "--stop-after", 2, "--out", "from.png"]
    assert command("generate", "together", "a dot", *small) == 0
    assert Image.open("from.png").size == (8, 8)
    assert "has no effect on a single run" in refused(capsys, "generate", runs[0], "a dot", "--stop-after", 1)
    assert "no prompts of its own" in refused(capsys, "generate", *runs)
    assert "--resolution has no effect" in refused(capsys, "generate", *runs, "a dot", "--resolution", 32)
    assert "both given" in refused(capsys, "generate", *runs, "x", "--steps", 2, "--stage-steps", "1,1,1")
    assert "put it first" in refused(capsys, "generate", runs[1], runs[0], "a dot")


def test_any_image_is_enlarged(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (7, 5), (200, 20, 20)).save("small.png")
    assert command("super-resolve", runs[1], "small.png", "--out", "large.png") == 0
    assert Image.open("large.png").size == (14, 10)
    assert command("super-resolve", runs[1], "small.png", "--prompt", "a dot", "--out", "told.png") == 0
    assert Image.open("told.png").tobytes() != Image.open("large.png").tobytes()
    assert "does not enlarge images" in refused(capsys, "super-resolve", runs[0], "small.png")
    assert "there is no image" in refused(capsys, "super-resolve", runs[1], "absent.png")
    Path("text.png").write_text("no image")
    assert "cannot be read as an image" in refused(capsys, "super-resolve", runs[1], "text.png")


def test_a_cascade_and_its_stages_are_scored(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made = [make_run(tmp_path / "base", 16), make_run(tmp_path / "sr", 32, 2)]
    assert command("export", *made, "together") == 0
    assert command("evaluate", "together", "--count", 2, "--out", "score.json") == 0
    report = json.loads(Path("score.json").read_text())
    assert set(report["composition"]) == {"single", "two", "held_out"}
    assert report["settings"]["stages"] == ["base", "sr"]
    assert command("evaluate", made[1], "--count", 2, "--out", "near.json") == 0
    report = json.loads(Path("near.json").read_text())
    assert set(report["psnr_db"]) == {"model", "bicubic"}
