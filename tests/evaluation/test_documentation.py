"""Every command of docs/evaluation.md runs on the bundled demo, with stand-ins for networks that need a download."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from micro_diffusion import cli
from micro_diffusion.evaluation import features
from micro_diffusion.evaluation.features import RandomConvolutions
from micro_diffusion.training.config_checks.resolvers import register_resolvers
from micro_diffusion.training.config_checks.schema import validate
from tests.evaluation.test_image_sets import coco, dpg_prompts, geneval_checkout, geneval_prompts
from tests.evaluation.test_reference import folder_of
from tests.evaluation.test_run_page import trained

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8"), re.M | re.S)
COMMANDS = [shlex.split(line) for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]


class StandIn(RandomConvolutions):
    """A feature network with captions."""

    def embed_captions(self, captions):
        return torch.ones(len(captions), 64)


def test_every_command_runs_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("inception", "clip"):
        monkeypatch.setitem(features.NETWORKS, name, lambda folder, device: StandIn(device=device))
    for name in ("real", "val2014"):
        folder_of(tmp_path / name, count=8, suffix="jpg" if name == "val2014" else "png")
    prompts = [f"a large {colour} star on a white background" for colour in ("red", "blue", "green", "pink")]
    Path("prompts.txt").write_text("\n".join(prompts))
    coco(tmp_path / "annotations" / "captions_val2014.json")
    geneval_prompts(tmp_path / "evaluation_metadata.jsonl")
    geneval_checkout(tmp_path / "geneval")
    dpg_prompts(tmp_path / "dpg_prompts")
    trained(tmp_path / "trained_models" / "mine", loss=0.5)
    trained(tmp_path / "trained_models" / "other", loss=0.7)
    ours = [command[1:] for command in COMMANDS if command[0] == "micro-diffusion"]
    for command in ours:
        quick = ["--steps", "1"] if command[0] == "evaluate" else []
        fewer = ["--count", "5"] if "--protocol" in command else []
        assert cli.main([*command, *quick, *fewer]) == 0, command
    assert len(json.loads(Path("composition.json").read_text())["composition"]) == 3
    scores = json.loads(Path("scores.json").read_text())["scores"]
    assert json.loads(Path("again.json").read_text())["scores"]["fid_random_conv"] == scores["fid_random_conv"]
    report = json.loads(Path("coco.json").read_text())
    assert set(report["scores"]) == {"fid", "clip_score"} and report["images"] == 5
    assert report["preparation"] == "centre square, lanczos to 256"
    assert set(json.loads(Path("geneval.json").read_text())["scores"]["geneval"]) == {"colors", "counting", "overall"}
    assert len(list(Path("dpg/dpg").glob("*.png"))) == 2
    assert "composition/single over guidance_scale" in Path("mine.html").read_text(encoding="utf-8")
    assert Path("both.html").read_text(encoding="utf-8").count("<polyline") > 2


def test_the_configurations_of_training_are_accepted():
    register_resolvers()
    trainings = [command for command in COMMANDS if command[0] == "composer"]
    assert len(trainings) == 2
    for command in trainings:
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            config = compose(command[command.index("--config-name") + 1], overrides=command[6:])
        validate(config)
        assert any("metrics_on_images" in callback._target_ for callback in config.callbacks.values())
