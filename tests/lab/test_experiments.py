"""Every experiment composes, is consumed to the last key, and changes one thing of its parent."""

from functools import cache
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from micro_diffusion.lab.experiments import (
    composed,
    differences,
    digest,
    experiment_names,
    read_experiment,
    resolved,
    undeclared,
)
from micro_diffusion.training.config_checks.coherence import check_coherence
from micro_diffusion.training.config_checks.schema import validate

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
EXPERIMENTS = experiment_names(CONFIGS)


@cache
def training(name: str) -> DictConfig:
    return composed(CONFIGS, name)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_whole_and_changes_one_thing(name: str):
    experiment = read_experiment(CONFIGS / "experiment" / f"{name}.yaml")
    config = training(name)
    validate(config)
    check_coherence(config)
    assert (experiment.parent is None) == (name == "base")
    if experiment.parent is not None:
        parent = training(experiment.parent)
        assert list(differences(config, parent)) != []
        assert "," not in experiment.says["Changes"]
        assert undeclared(experiment, config, parent) == []
        assert experiment.says["Command"].endswith(f"run {experiment.parent} {name}")


@pytest.mark.parametrize("bench", sorted(path.stem for path in (CONFIGS / "bench").glob("*.yaml")))
def test_a_bench_composes_with_every_part(bench: str):
    config = composed(CONFIGS, "mask_075", bench=bench)
    validate(config)
    check_coherence(config)
    assert config.model.train_mask_ratio == 0.75 and (bench == "emoji") == ("emoji" in config.train_loader.path)


def test_a_second_change_is_found():
    experiment = read_experiment(CONFIGS / "experiment/no_mixer.yaml")
    says = {key: value for key, value in experiment.says.items() if key != "With it"}
    found = undeclared(experiment._replace(says=says), training("no_mixer"), training("base"))
    assert found == ["backbone.depth", "backbone.mixer_convolution"]


def test_a_head_without_a_field_is_refused(tmp_path: Path):
    (tmp_path / "new.yaml").write_text("# @package _global_\n# Changes: x\ndefaults: [base, _self_]\n")
    with pytest.raises(ValueError, match=r"lack Hypothesis, Reference, Command, Expect, Result"):
        read_experiment(tmp_path / "new.yaml")
    with pytest.raises(FileNotFoundError, match="no experiment newer; choose one of new"):
        read_experiment(tmp_path / "newer.yaml")


def test_a_field_goes_on_over_lines(tmp_path: Path):
    text = "".join(f"# {field}: a\n#     b\n" for field in ("Hypothesis", "Reference", "Command", "Expect", "Result"))
    (tmp_path / "base.yaml").write_text(text + "x: 1\n")
    assert read_experiment(tmp_path / "base.yaml").says["Command"] == "a b"


def test_differences_are_of_what_is_written():
    ours = OmegaConf.create({"a": {"b": 1, "c": "${a.b}", "e": [1]}, "d": 2})
    theirs = OmegaConf.create({"a": {"b": 2, "c": "${a.b}", "e": [1, 2]}})
    assert list(differences(ours, theirs)) == ["a.b", "a.e", "d"]


def test_a_key_is_of_everything_that_is_set():
    config = resolved(training("base"))
    assert digest(config) == digest(dict(reversed(config.items())))
    assert digest(config) != digest({**config, "seed": 19})
