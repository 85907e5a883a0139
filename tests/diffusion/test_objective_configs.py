"""Every option of objectives, their parts, noise levels and samplers fits into a stage and is built."""

import itertools
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from micro_diffusion.diffusion.objective import Objective
from micro_diffusion.diffusion.prediction import Velocity
from micro_diffusion.diffusion.schedule import BetaTable
from micro_diffusion.diffusion.weight import MinSNR
from micro_diffusion.files.old_names import renamed
from micro_diffusion.sampling.heun import HeunSampler
from micro_diffusion.sampling.noise_levels import Karras, TableSteps
from micro_diffusion.sampling.sampler import Sampler
from micro_diffusion.training.config_checks.coherence import check_coherence
from micro_diffusion.training.config_checks.resolvers import register_resolvers
from micro_diffusion.training.config_checks.schema import validate

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
LEVELS_OF = {"ddpm": "table_steps", "log_snr": "schedule_time", "log_snr_linear": "schedule_time"}
OBJECTIVE_OF = {"table_steps": "ddpm", "schedule_time": "log_snr"}

EARLIER = {
    3.0: [79.99999999999996, 10.903104960664006, 0.0020000000000000057, 0.0],
    7.0: [80.0, 2.515218976147159, 0.002000000000000003, 0.0],
}

register_resolvers()


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def built(*overrides: str) -> tuple[Objective, Sampler]:
    """Objective and sampler of a stage with these overrides, which is checked as a training checks it."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("quickstart_32_pretrain", overrides=["exp_name=test", *overrides])
    validate(config)
    check_coherence(config)
    objective, sampler = instantiate(config.objective), instantiate(config.sampler)
    assert isinstance(objective, Objective) and isinstance(instantiate(config.model.objective), Objective)
    sigmas = sampler.sigmas(sigma_min=objective.sigma_min, sigma_max=objective.sigma_max)
    assert len(sigmas) == sampler.steps + 1
    return objective, sampler


@pytest.mark.parametrize("name", options("objective"))
def test_objectives(name):
    built(f"objective={name}", f"levels={LEVELS_OF.get(name, 'karras')}")


@pytest.mark.parametrize("name", options("levels"))
def test_levels(name):
    """With few steps, since `few_steps` has no room for many between its first two levels."""
    built(f"levels={name}", f"objective={OBJECTIVE_OF.get(name, 'edm')}", "sampler.steps=8")


@pytest.mark.parametrize("name", options("sampler"))
def test_samplers(name):
    built(f"sampler={name}")


def test_predictions_and_weights_are_options_of_an_objective():
    predictions, weights = options("objective/prediction"), options("objective/weight")
    pairs = itertools.zip_longest(predictions, weights, fillvalue="noise")
    for prediction, weight in pairs:
        built("objective=log_snr", f"objective/prediction={prediction}", f"objective/weight={weight}")
    choices = ("objective/prediction=velocity", "objective/weight=min_snr", "objective.levels.schedule.kind=sigmoid")
    objective, sampler = built("objective=ddpm", *choices, "levels=table_steps", "sampler=euler_ancestral")
    assert isinstance(objective.prediction, Velocity) and isinstance(objective.loss_weight, MinSNR)
    assert isinstance(sampler.levels, TableSteps) and sampler.levels.table == BetaTable("sigmoid")


def test_a_sampler_of_an_earlier_version_keeps_its_levels():
    """It had the rho of Karras' levels itself; numbers of the earlier code, bit for bit."""
    target = {"_target_": "micro_diffusion.sampling.heun.HeunSampler", "steps": 3}
    sampler = instantiate(renamed({"sampler": {**target, "rho": 3.0}})["sampler"], _convert_="all")
    assert isinstance(sampler, HeunSampler) and isinstance(sampler.levels, Karras) and sampler.levels.rho == 3
    assert sampler.sigmas(sigma_min=0.002, sigma_max=80.0) == EARLIER[3.0]
    assert instantiate(target).sigmas(sigma_min=0.002, sigma_max=80.0) == EARLIER[7.0]


@pytest.mark.parametrize("name", ["ddpm", "log_snr", "linear_interpolation"])
def test_tables_have_values_where_networks_are_built_without_any(name):
    with torch.device("meta"):
        objective, _ = built(f"objective={name}", f"levels={LEVELS_OF.get(name, 'linear_time')}")
    assert objective.training_sigma(torch.zeros(2)).isfinite().all()
    assert objective.level(torch.ones(2)).isfinite().all()
