"""What is to be run: every experiment with every seed, of the length that a budget buys.

An experiment that changes only how images are made trains nothing: it samples with the run of its parent, of the same
seed and budget. Guidance away from a weaker run names it as EXPERIMENT@SHARE, of the same seed and that share of the
budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from micro_diffusion.lab.experiments import (
    Experiment,
    composed,
    differences,
    digest,
    experiment_names,
    read_experiment,
    resolved,
)
from micro_diffusion.performance.cost import Cost, cost_of
from micro_diffusion.sampling.guidance import ROUTE

SAMPLING = ("sampler", "prompts", "callbacks.composition")
"""Keys below which nothing changes what is learned."""

WEAKER = "callbacks.composition.weaker"

BASE = "base"
"""The experiment that all others come from."""


class Plan(NamedTuple):
    """A run that is wanted.

    config: ready to be trained. cost: of the training. key: of it, wherever it is trained. training: the run that it
    samples with, or None for one that trains. weaker: the run that guidance leads away from, or None. bench: on which.
    ground: key of what all experiments with the same overrides on this bench start from.
    """

    experiment: Experiment
    seed: int
    budget: float
    config: DictConfig
    cost: Cost
    key: str
    training: Plan | None = None
    weaker: Plan | None = None
    bench: str = "shapes"
    ground: str = ""

    @property
    def folder(self) -> Path:
        """Of the run."""
        return Path(self.config.output_dir, self.config.exp_name)

    @property
    def is_complete(self) -> bool:
        """Whether the run has finished, in its folder."""
        return (self.folder / "complete.json").is_file()

    @property
    def needs(self) -> list[Plan]:
        """The runs that have to be there before."""
        return [plan for plan in (self.training, self.weaker) if plan is not None]

    def content(self) -> dict[str, Any]:
        """Everything that its configuration sets, wherever data and runs are."""
        config = anywhere(self.config)
        if self.weaker is not None:
            OmegaConf.update(config, WEAKER, self.weaker.config.exp_name)
        return resolved(config)


class NothingToCompareError(ValueError):
    """An experiment of which these overrides, or this bench, leave nothing to compare with its parent."""


def planned(
    configs: Path,
    names: Sequence[str] | None,
    seeds: Sequence[int],
    budget: float,
    overrides: Sequence[str] = (),
    *,
    bench: str = "shapes",
) -> list[Plan]:
    """Experiments with every seed, the seeds outermost: when time runs out, all experiments have as many.

    names: None takes all of which there is something to compare, and prints why the others are left out.

    Raises:
        ValueError: for an experiment that does not compose, of which there is nothing to compare, or which names a
            weaker run that there cannot be.
    """
    planner = Planner(configs, overrides, bench=bench)
    if names is None:
        names = comparable(planner, experiment_names(configs), budget)
    return [planner.plan(name, seed, budget) for seed in seeds for name in names]


def comparable(planner: Planner, names: Sequence[str], budget: float) -> list[str]:
    """The experiments of which there is something to compare; says why the others are left out."""
    found = []
    for name in names:
        try:
            planner.plan(name, 1, budget)
            found.append(name)
        except NothingToCompareError as error:
            print(f"left out: {error}", flush=True)
    return found


class Planner:
    """Makes plans; each experiment is composed, and its steps are counted, once.

    Args:
        configs: the folder of configurations.
        overrides: of Hydra, for every run.
        bench: an option of configs/bench.
    """

    def __init__(self, configs: Path, overrides: Sequence[str] = (), *, bench: str = "shapes") -> None:
        self.bench = bench
        self.experiment = cache(lambda name: read_experiment(configs / "experiment" / f"{name}.yaml"))
        self.composed = cache(lambda name: composed(configs, name, overrides, bench=bench))
        self.samples_only = cache(self._samples_only)
        self.ground = cache(lambda: digest(resolved(anywhere(self.composed(BASE)))))
        # of a copy, since building a model resolves interpolations in its configuration
        self.with_length = cache(lambda name, budget: with_length(self.composed(name).copy(), budget))

    def plan(self, name: str, seed: int, budget: float) -> Plan:
        """Of one experiment, and of the runs that it needs."""
        experiment, training = self.experiment(name), None
        if (only := experiment.says.get("Bench", self.bench)) != self.bench:
            raise NothingToCompareError(f"{name} needs what bench {only} has, and {self.bench} has not; leave it out")
        if experiment.parent is not None and self.samples_only(name, experiment.parent):
            parent = self.plan(experiment.parent, seed, budget)
            training, config, cost = parent.training or parent, self.composed(name).copy(), parent.cost
            config.trainer.max_duration = training.config.trainer.max_duration
        else:
            config, cost = self.with_length(name, budget)
            config = config.copy()
        config.seed = seed
        weaker = self._weaker(config, seed, budget)
        key = digest({"experiment": name, **resolved(anywhere(config))})
        config.exp_name = f"{experiment.name}/{seed}_{key}"
        if weaker is not None:
            OmegaConf.update(config, WEAKER, str(weaker.folder))
        return Plan(experiment, seed, budget, config, cost, key, training, weaker, self.bench, self.ground())

    def _samples_only(self, name: str, parent: str) -> bool:
        """Whether it trains nothing; an error when the overrides, or the bench, leave nothing of it to compare."""
        ours, theirs = self.composed(name), self.composed(parent)
        if not any(differences(ours, theirs)):
            raise NothingToCompareError(f"with these overrides {name} is the same as {parent}; leave one of them out")
        if not only_samples(ours, theirs):
            return False
        if self.bench != "shapes":
            raise NothingToCompareError(
                f"{name} is judged by what images show, which bench {self.bench} cannot; leave it out"
            )
        if ours.callbacks.get("composition") is None:
            raise NothingToCompareError(f"{name} is judged by images; leave it out, or callbacks.composition=null")
        return True

    def _weaker(self, config: DictConfig, seed: int, budget: float) -> Plan | None:
        """The run that guidance leads away from, whose name takes the place of what the experiment says of it."""
        said = OmegaConf.select(config, WEAKER)
        if said in (None, ROUTE):
            return None
        name, _, share = said.partition("@")
        try:
            part = float(share)
        except ValueError as error:
            raise ValueError(f"{WEAKER} is {said}; name an experiment and a share of the budget as base@0.1") from error
        plan = self.plan(name, seed, part * budget)
        OmegaConf.update(config, WEAKER, plan.config.exp_name)
        return plan


def with_length(config: DictConfig, budget: float) -> tuple[DictConfig, Cost]:
    """The training of the length that a budget buys, and what it costs."""
    cost = cost_of(config)
    steps = cost.steps(budget, config.train_loader.batch_size)
    return DictConfig(OmegaConf.merge(config, {"trainer": {"max_duration": f"{steps}ba"}})), cost


def only_samples(config: DictConfig, parent: DictConfig) -> bool:
    """Whether two trainings are the same, and only their images are made otherwise."""
    changed = list(differences(config, parent))
    return bool(changed) and all(f"{key}.".startswith(tuple(f"{one}." for one in SAMPLING)) for key in changed)


def anywhere(config: DictConfig) -> DictConfig:
    """The same training, wherever its data and its folder are."""
    content = {"output_dir": "", "train_loader": {"path": ""}, "eval_loader": {"path": ""}}
    return DictConfig(OmegaConf.merge(config, content))
