"""Every configuration composes, is consumed to the last key, builds its network, and states only its difference."""

import inspect
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_method, instantiate
from omegaconf import DictConfig, OmegaConf

from micro_diffusion.backbone.backbone import Backbone
from micro_diffusion.checkpoint import parameter_count
from micro_diffusion.doctor.examination import all_stages
from micro_diffusion.lab.experiments import differences
from micro_diffusion.training.config_checks.coherence import check_coherence
from micro_diffusion.training.config_checks.resolvers import register_resolvers
from micro_diffusion.training.config_checks.schema import ROOT, validate

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
GROUPS = sorted(path for path in CONFIGS.iterdir() if path.is_dir() and path.name not in ("base", "variant"))
LEAVES_OF_HYDRA = ("defaults", "hydra")
ABSENT = object()

register_resolvers()


def composed(name: str, *overrides: str, folder: Path = CONFIGS) -> DictConfig:
    with initialize_config_dir(str(folder), version_base="1.3"):
        return compose(name, overrides=list(overrides))


def leaves(node: Any, path: str = "") -> dict[str, Any]:
    """Dotted keys of a configuration file to their values, as written."""
    if not OmegaConf.is_dict(node):
        return {path: node}
    found: dict[str, Any] = {}
    for key in node:
        value = OmegaConf.to_container(node)[key] if not OmegaConf.is_dict(node._get_node(key)) else node[key]
        found |= leaves(value, f"{path}.{key}" if path else str(key))
    return found


PRIMARY = sorted(path for path in CONFIGS.glob("*.yaml"))
STAGES = all_stages(CONFIGS)
OPTIONS = [path for group in GROUPS for path in sorted(group.glob("*.yaml"))]


def name_of(path: Path) -> str:
    return str(path.relative_to(CONFIGS).with_suffix(""))


@pytest.mark.parametrize("path", PRIMARY, ids=name_of)
def test_a_stage_is_consumed_to_the_last_key_and_builds_its_network(path: Path):
    config = composed(path.stem)
    assert ("trainer" in config) == (path.stem in STAGES)
    if path.stem not in STAGES:
        return
    validate(config)
    if "backbone" in config:
        build(config)
        assert config.backbone.in_channels == config.autoencoder.channels
        assert config.backbone.caption_dim == config.text_encoder.dim
        assert config.backbone.input_size * config.autoencoder.downsampling == config.resolution
        assert config.train_loader.resolution == config.eval_loader.resolution == config.resolution


def build(config: DictConfig) -> None:
    """Network, model, optimizer and whatever else is there without data."""
    with torch.device("meta"):
        backbone = instantiate(config.backbone, _convert_="all")
        model = instantiate(config.model, _convert_="all")
    assert isinstance(backbone, Backbone)
    groups = backbone.parameter_groups()
    optimizer = instantiate(config.optimizer, _convert_="all")(groups)
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) == parameter_count(backbone)
    assert model.train_mask_ratio == config.model.train_mask_ratio
    for part in ("schedule", "algorithms", "objective", "sampler", "prompts"):
        instantiate(config[part], _convert_="all")


@pytest.mark.parametrize(
    ("backbone", "parameters"),
    [
        ("tiny", 200_692_752),
        ("xl", 1_165_442_320),
        ("tld text_encoder.dim=768", 101_164_352),
        ("unet_ldm text_encoder.dim=27", 12_198_020),
        ("unet_small text_encoder.dim=10", 3_038_676),
    ],
)
def test_sizes_have_the_published_parameter_counts(backbone: str, parameters: int):
    config = composed("256_pretrain", *f"backbone={backbone}".split())
    with torch.device("meta"):
        network = instantiate(config.backbone, _convert_="all")
    assert parameter_count(network) == parameters


RECIPE = {
    # mask, learning rate, schedule, steps, P_mean, P_std, clip, microbatch, averaging, position scale
    "256_pretrain": (0.75, 2.4e-4, "CosineAnnealingWithWarmup", 250_000, -0.6, 1.2, 0.25, 128, False, 1.0),
    "256_finetune": (0.0, 8e-5, "Constant", 30_000, -0.6, 1.2, 0.25, 64, False, 1.0),
    "512_pretrain": (0.75, 8e-5, "ConstantWithWarmup", 50_000, 0.0, 0.6, 0.5, 32, True, 2.0),
    "512_finetune": (0.0, 8e-5, "Constant", 5_000, 0.0, 0.6, 0.5, 16, True, 2.0),
}


@pytest.mark.parametrize("stage", RECIPE)
def test_stages_follow_the_recipe(stage: str):
    c = composed(stage)
    assert (
        c.model.train_mask_ratio,
        c.optimizer.lr,
        c.schedule._target_.rpartition(".")[2].removesuffix("Scheduler"),
        int(c.trainer.max_duration.removesuffix("ba")),
        c.objective.P_mean,
        c.objective.P_std,
        c.algorithms.gradient_clipping.clipping_threshold,
        c.trainer.device_train_microbatch_size,
        "ema" in c.algorithms,
        c.backbone.position_scale,
    ) == RECIPE[stage]
    assert (c.train_loader.batch_size, c.optimizer.weight_decay, list(c.optimizer.betas)) == (2048, 0.1, [0.9, 0.999])
    assert (c.model.caption_drop, c.objective.sigma_data) == (0.1, 0.9)


@pytest.mark.parametrize("stage", RECIPE)
def test_the_newer_recipe_changes_how_is_learned_and_nothing_else(stage: str):
    ours, published = composed(f"recipe_{stage}"), composed(stage)
    changed = {key.split(".")[0] for key in differences(ours, published)}
    assert changed <= {"exp_name", "optimizer", "objective", "sampler", "schedule"}
    assert ("schedule" in changed) == (stage == "512_finetune")
    assert ours.objective.levels.shift == (2.0 if "512" in stage else 1.0)
    assert ours.optimizer.lr == published.optimizer.lr


def test_small_variants_are_the_same_stages():
    """They keep what a stage is about: its mask and how its resolution follows from the one before."""
    for small in ("quickstart", "emoji"):
        for small_size, size in ((32, 256), (64, 512)):
            for kind in ("pretrain", "finetune"):
                variant, stage = composed(f"{small}_{small_size}_{kind}"), composed(f"{size}_{kind}")
                assert variant.model.train_mask_ratio == stage.model.train_mask_ratio
                assert variant.backbone.position_scale == stage.backbone.position_scale
                assert variant.model._target_ == stage.model._target_


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(CONFIGS, tmp_path_factory.mktemp("bare") / "configs")


@pytest.mark.parametrize("path", PRIMARY, ids=name_of)
def test_no_line_of_a_stage_repeats_its_parent(path: Path, copied: Path):
    """Compose the file's defaults list alone; every leaf that the file states must be new or different there."""
    own = OmegaConf.load(path)
    assert isinstance(own, DictConfig)
    OmegaConf.save({"defaults": own.get("defaults", [])}, copied / "bare.yaml")
    parent = OmegaConf.to_container(composed("bare", folder=copied))
    repeated = []
    for key, value in leaves(own).items():
        if key.split(".")[0] in LEAVES_OF_HYDRA:
            continue
        inherited: Any = parent
        for part in key.split("."):
            inherited = inherited.get(part, ABSENT) if isinstance(inherited, dict) else ABSENT
        if inherited == value:
            repeated.append(f"{key}: {value}")
    assert repeated == [], f"{path.name} repeats its parent; delete these lines"


@pytest.mark.parametrize("path", [p for p in OPTIONS if "defaults" in OmegaConf.load(p)], ids=name_of)
def test_no_line_of_an_option_repeats_its_parent(path: Path):
    own = OmegaConf.load(path)
    assert isinstance(own, DictConfig)
    own_leaves = leaves(own)
    for parent in own.defaults:
        if isinstance(parent, str) and parent != "_self_":
            inherited = leaves(OmegaConf.load(path.parent / f"{parent}.yaml"))
            repeated = [key for key, value in own_leaves.items() if key in inherited and inherited[key] == value]
            assert [key for key in repeated if key not in LEAVES_OF_HYDRA] == []


@pytest.mark.parametrize("path", OPTIONS, ids=name_of)
def test_targets_of_an_option_exist_and_take_its_keys(path: Path):
    """Checks options that no stage uses, too."""
    nodes = [OmegaConf.to_container(OmegaConf.load(path))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict):
            nodes += node.values()
            if "_target_" in node:
                taken = inspect.signature(get_method(node["_target_"]) if "." in node["_target_"] else None).parameters
                keys = [key for key in node if not str(key).startswith("_") and key != "defaults"]
                if not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
                    assert [key for key in keys if key not in taken] == []


@pytest.mark.parametrize(
    "stage",
    ["512_finetune", *(pytest.param(s, marks=pytest.mark.slow) for s in ("256_pretrain", "quickstart_32_pretrain"))],
)
@pytest.mark.parametrize("group", [g.name for g in GROUPS if g.name in (*ROOT, "logger", "data")])
def test_any_option_of_a_group_fits_any_stage(group: str, stage: str):
    """Stages set only leaves that every option of a group has, so a user may pick another one."""
    for option in sorted((CONFIGS / group).glob("[!_]*.yaml")):
        if (option.stem, stage) not in MEANINGLESS:
            validate(composed(stage, f"{group}={option.stem}", *NEEDS.get((group, option.stem), ())))


MEANINGLESS = {
    *((network, "512_finetune") for network in ("imagen_base_64", "imagen_sr_256", "imagen_sr_1024")),  # no positions
    *((network, "512_finetune") for network in ("pixel_small", "pixel_sr_small")),
    *(("ema_tld", stage) for stage in ("512_finetune", "quickstart_32_pretrain")),  # which set how much is clipped
}
NEEDS = {
    ("prompts", "classes"): ("text_encoder=classes", "text_encoder.names=[cat,dog]"),
    ("text_encoder", "classes"): ("text_encoder.names=[cat,dog]",),
}
"""What an option needs beside it, whatever the stage."""


@pytest.mark.parametrize("stage", [*RECIPE, *(f"recipe_{stage}" for stage in RECIPE)])
def test_the_documented_commands_are_accepted(stage: str):
    checkpoint = "trained_models/earlier/checkpoints/latest-rank0.pt"
    changes = ["exp_name=masked_pretrain", "model.train_mask_ratio=0.5", f"trainer.load_path={checkpoint}"]
    config = composed(f"{stage}.yaml", *changes, "trust_checkpoint=true")
    validate(config)
    check_coherence(config)
    assert config.exp_name == config.trainer.run_name == "masked_pretrain"
    assert config.trainer.load_path == checkpoint and config.model.train_mask_ratio == 0.5
