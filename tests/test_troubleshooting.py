"""docs/troubleshooting.md names only what there is: commands, options, keys of configurations, metrics and images."""

import json
import re
import shlex
from pathlib import Path

import click
from hydra import compose, initialize_config_dir
from PIL import Image

from micro_diffusion.cli.entry import program
from micro_diffusion.training.config_checks.resolvers import register_resolvers
from micro_diffusion.training.config_checks.schema import validate
from tests.small_training import make_latents, train_here

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
BASH = "".join(text for language, text in BLOCK.findall(PAGE) if language == "bash").replace("\\\n", " ")
CODE = [" ".join(code.split()) for code in [*re.findall(r"`([^`]+)`", BLOCK.sub("", PAGE)), *BASH.splitlines()]]
WORDS = [shlex.split(code) for code in CODE if "'" not in code]
METRIC = re.compile(r"(loss|metrics|lr-\w+|l2_norm|throughput|time|trainer)/[\w/.-]+")


def test_commands_and_their_options_exist():
    commands = [words for words in WORDS if words[0] in ("micro-diffusion", "generate") or words[0].startswith("--")]
    assert len(commands) >= 15
    for words in commands:
        name = words[1] if words[0] == "micro-diffusion" else "generate"
        command = program.get_command(click.Context(program), name)
        assert command is not None, words
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, words
    assert all((ROOT / words[1]).is_file() for words in WORDS if words[0] == "python")


def test_keys_of_configurations_are_accepted():
    """Of trainings as they stand, and all other keys on the quickstart's first stage."""
    register_resolvers()
    key = re.compile(r"[a-z_]+(\.[a-z_]+)*=[^=…]+")
    alone = [words for words in WORDS if all(map(key.fullmatch, words))]
    trainings = [(words[5].removesuffix(".yaml"), words[6:]) for words in WORDS if words[0] == "composer"]
    assert len(trainings) >= 7 and len(alone) >= 8
    for stage, overrides in [*trainings, *(("quickstart_32_pretrain", words) for words in alone)]:
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            validate(compose(stage, overrides=overrides))


def test_metrics_are_logged(tmp_path: Path):
    named = {code for code in CODE if METRIC.fullmatch(code)}
    assert len(named) >= 10
    make_latents(tmp_path, 16)
    often = ["callbacks.speed_monitor.window_size=3", "callbacks.optimizer_monitor.batch_log_interval=1"]
    found: set[str] = set()
    for optimizer in ("muon", "adamw"):
        chosen = [f"exp_name={optimizer}", f"optimizer={optimizer}", "trainer.max_duration=6ba"]
        train_here(tmp_path, *chosen, "trainer.eval_interval=3ba", *often)
        lines = (tmp_path / "runs" / optimizer / "metrics.jsonl").read_text().splitlines()
        found |= {metric for line in lines for metric in json.loads(line)}
    assert named - found == set()


def test_images_are_there_and_small():
    images = re.findall(r"!\[[^]]+\]\((images/\w+\.png)\)", PAGE)
    assert len(images) >= 8
    for image in images:
        path = ROOT / "docs" / image
        assert path.stat().st_size < 100_000 and Image.open(path).width <= 1000
