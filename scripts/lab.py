"""Compares ingredients of a training at equal compute: runs experiments, and writes what came of them into docs/lab.md.

python scripts/lab.py list                                  the experiments, each with what it changes
python scripts/lab.py plan base dense                       what a budget buys for each
python scripts/lab.py run base mask_075 --seeds 5           train them, resuming where it stopped
python scripts/lab.py run --all --jobs 4                    everything, four side by side
python scripts/lab.py run base --bench emoji                the same on other images
python scripts/lab.py report                                tables and curves into docs/lab.md

An experiment is configs/experiment/NAME.yaml; its parent is what it is compared with. KEY=VALUE are Hydra overrides for
every run. Results are appended to docs/lab/results.jsonl, the failed ones too; a run that is there is not run again.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
PAGE = ROOT / "docs" / "lab.md"
BUDGET = 5e12


def main(arguments: Sequence[str] | None = None) -> None:
    """One of the commands."""
    options = parser().parse_intermixed_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))  # read when torch is imported, by every run too
    from micro_diffusion.training.config_checks.errors import one_sentence_errors

    with one_sentence_errors():
        COMMANDS[options.command](options)


def parser() -> argparse.ArgumentParser:
    """All options."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("command", choices=COMMANDS)
    top.add_argument("words", nargs="*", metavar="EXPERIMENT|KEY=VALUE")
    top.add_argument("--all", action="store_true", help="every experiment that the bench can tell from its parent")
    top.add_argument("--seeds", type=int, default=3, help="how many runs of each, with seeds 1, 2, 3, …; 3")
    top.add_argument("--budget", type=float, default=BUDGET, help=f"floating-point operations of a run; {BUDGET:.0e}")
    benches = sorted(path.stem for path in (CONFIGS / "bench").glob("*.yaml"))
    top.add_argument("--bench", choices=benches, default="shapes", help="what is trained on; shapes")
    top.add_argument("--jobs", type=int, default=1, help="runs side by side")
    top.add_argument("--threads", type=int, default=1, help="of each run; 1")
    top.add_argument("--again", action="store_true", help="try failed runs again")
    top.add_argument("--results", type=Path, default=ROOT / "docs/lab/results.jsonl")
    top.add_argument("--page", type=Path, default=PAGE)
    return top


def _list(options: argparse.Namespace) -> None:
    from micro_diffusion.lab.experiments import experiment_names, read_experiment

    _takes_no_words(options)
    for name in experiment_names(CONFIGS):
        found = read_experiment(CONFIGS / "experiment" / f"{name}.yaml")
        print(f"{found.name:24}{found.parent or '-':16}{found.says.get('Changes', '-'):41}{found.says['Hypothesis']}")


def _plans(options: argparse.Namespace, seeds: int):
    from micro_diffusion.lab.experiments import experiment_names
    from micro_diffusion.lab.planning import planned

    overrides = [word for word in options.words if "=" in word]
    names = [word for word in options.words if word not in overrides]
    if seeds < 1:
        raise ValueError(f"--seeds is {seeds}; say how many runs each experiment shall have, at least 1")
    if bool(names) == options.all:
        there = ", ".join(experiment_names(CONFIGS))
        raise ValueError(f"{len(names)} experiments are named; choose some of {there}, or --all alone")
    return planned(CONFIGS, names or None, range(1, seeds + 1), options.budget, overrides, bench=options.bench)


def _plan(options: argparse.Namespace) -> None:
    print(f"{'experiment':24}{'MFLOP/image':>12}{'MFLOP/update':>14}{'batch':>7}{'steps':>8}{'images':>10}")
    for plan in _plans(options, seeds=1):
        batch, steps = plan.config.train_loader.batch_size, int(plan.config.trainer.max_duration.removesuffix("ba"))
        image, update = plan.cost.image / 1e6, plan.cost.update / 1e6
        print(f"{plan.experiment.name:24}{image:12.1f}{update:14.1f}{batch:7}{steps:8}{steps * batch:10,}")


def _run(options: argparse.Namespace) -> None:
    from micro_diffusion.lab.running import run_all

    run_all(_plans(options, options.seeds), options.results, jobs=options.jobs, again=options.again)


def _report(options: argparse.Namespace) -> None:
    from micro_diffusion.lab.report import write_report

    _takes_no_words(options)
    heads = options.page.resolve() == PAGE  # another page is not what the files of the experiments tell of
    write_report(options.results, options.page, CONFIGS / "experiment", heads=heads)


def _takes_no_words(options: argparse.Namespace) -> None:
    if options.words:
        said = " ".join(options.words)
        raise ValueError(f"{options.command} takes no experiments or overrides; leave out {said}")


COMMANDS = {"list": _list, "plan": _plan, "run": _run, "report": _report}

if __name__ == "__main__":
    main()
