"""A plan follows its formulae, its counts are those of real steps, and its prediction holds."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from micro_diffusion import cli
from micro_diffusion.performance.counting import count_flops, count_saved_bytes
from micro_diffusion.performance.plan import MACHINES, USABLE, Machine, data_bytes, measure_stage, plan_stage, report
from micro_diffusion.performance.timing import measure, now
from micro_diffusion.performance.training_step import (
    TrainingStep,
    activation_bytes,
    build_model,
    random_batch,
    training_flops,
)
from micro_diffusion.training.draws import Draws
from micro_diffusion.training.resolvers import register_resolvers

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALL = ["backbone.depth=2", "backbone.mixer_depth=1"]
CPU = torch.device("cpu")

register_resolvers()


def config(stage="quickstart_32_pretrain", *overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(stage, overrides=list(overrides))


@pytest.mark.parametrize("mask_ratio", [0.0, 0.75])
def test_counts_are_those_of_a_real_step(mask_ratio):
    small = config("quickstart_32_pretrain", *SMALL, f"model.train_mask_ratio={mask_ratio}")
    model = build_model(small)
    model.cpu_precision = "fp32"
    batches = [model.draw(random_batch(small, size), Draws.of(0, size=size)) for size in (1, 2)]

    one, two = (count_saved_bytes(lambda batch=batch: model.loss(model(batch), batch), model) for batch in batches)
    assert activation_bytes(small) == two - one
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # whose products are all counted
        real = count_flops(lambda: model.loss(model(batches[0]), batches[0]).backward())
    assert training_flops(small) == real


def test_the_formulae():
    small, machine = config("quickstart_64_finetune", *SMALL), Machine(2, 1e12, 1e9)
    plan = plan_stage("s", small, machine, mfu=0.5)
    parameters = sum(p.numel() for p in build_model(small).parameters())
    assert plan.parameters == parameters
    assert plan.pictures == small.train_loader.batch_size * int(small.trainer.max_duration.removesuffix("ba"))
    assert plan.hours * 3600 == pytest.approx(plan.pictures * plan.flops_per_picture / (2 * 1e12 * 0.5))
    assert plan.fixed_bytes == 20 * parameters  # with a moving average
    room = (1e9 * USABLE - plan.fixed_bytes) // plan.activation_bytes
    assert plan.microbatch == min(room, small.train_loader.batch_size // 2)
    assert plan_stage("s", small, Machine(1, 1e12, 1e6), mfu=0.5).microbatch == 0
    with pytest.raises(ValueError, match="MFU is 40"):
        plan_stage("s", small, machine, mfu=40)


def test_disk_counts_every_resolution_once():
    stages = [config(f"{size}_{kind}") for size in (256, 512) for kind in ("pretrain", "finetune")]
    assert data_bytes(stages, 10) == 10 * 2 * (4 * 32**2 + 4 * 64**2 + 77 * 1024)


def test_the_command_prints_a_table(capsys):
    arguments = ["plan", "quickstart_32_pretrain", "quickstart_64_finetune", "--machine", "h100x8", "--price", "2"]
    assert cli.main([*arguments, "--configs", str(CONFIGS), "--set", "backbone.depth=2"]) == 0
    printed = capsys.readouterr().out
    assert "quickstart_32_pretrain" in printed and "together" in printed and "MFU of 0.4" in printed
    assert cli.main(["plan", "--configs", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_the_report_adds_up():
    plan = plan_stage("s", config("quickstart_32_pretrain", *SMALL), MACHINES["4090"], mfu=1e-4)
    printed = report([plan, plan], devices=8, price=3.0, data=10**9).splitlines()
    assert printed[3].split()[-1] == f"{2 * plan.hours * 8 * 3:,.0f}"


@pytest.mark.slow
def test_a_measured_plan_predicts_a_run():
    small = config("quickstart_32_pretrain", "trainer.max_duration=40ba", "train_loader.batch_size=16")
    plan = measure_stage("s", small, device=CPU, batch_size=16, clock="process")
    step = TrainingStep(config=small, batch_size=16, device=CPU, precision="auto", compile=False)
    measure(step, warmup=2, repeats=1, device=CPU)
    start = now(CPU, "process")
    for _ in range(40):
        step()
    assert plan.hours * 3600 == pytest.approx(now(CPU, "process") - start, rel=0.15)
