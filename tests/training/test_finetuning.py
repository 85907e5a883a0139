"""Fine-tuning a finished run by `adapter=lora`: what is trained, what is written, and how it goes on and opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from micro_diffusion import cli
from micro_diffusion.checkpoint import load_backbone
from micro_diffusion.files.run_folders import find_run
from tests.forked_process import run_script
from tests.forked_training import run_forked
from tests.small_training import ROOT, losses, make_latents, succeeded, train_command, train_here

SHORT = ["trainer.max_duration=8ba", "trainer.eval_interval=8ba"]
DROPOUT = [*SHORT, "adapter=lora", "adapter.rank=4", "adapter.dropout=0.2", "adapter.trained_whole=[final]"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finetuning")
    make_latents(folder, count=24)
    train_here(folder, "exp_name=first", "trainer.max_duration=4ba", "trainer.eval_interval=4ba")
    return folder


@pytest.fixture(scope="module")
def reference(workplace: Path) -> Path:
    train_here(workplace, "exp_name=tuned", f"init_from={workplace}/runs/first", *DROPOUT)
    return workplace / "runs/tuned"


def test_only_adapted_and_named_weights_change(workplace: Path, reference: Path):
    first = load_file(workplace / "runs/first/ema.safetensors")
    for file in ("model.safetensors", "ema.safetensors"):
        tuned = load_file(reference / file)
        changed = {key for key in tuned if not torch.equal(tuned[key], first[key])}
        assert tuned.keys() == first.keys()
        assert changed == {key for key in first if "attention" in key or key.startswith("final.")}
    raw, average = load_file(reference / "model.safetensors"), load_file(reference / "ema.safetensors")
    assert not torch.equal(raw["blocks.0.attention.qkv.weight"], average["blocks.0.attention.qkv.weight"])


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_the_adapter_alone_makes_the_same_of_the_first_weights(workplace, reference, tmp_path, capsys, weights):
    from peft import PeftModel

    command = ["export", str(reference), str(tmp_path / "out"), "--format", "adapter", "--weights", weights]
    assert cli.main(command) == 0
    assert "adapter_model.safetensors: 0." in capsys.readouterr().out
    first: Any = load_backbone(workplace / "runs/first")
    opened: Any = PeftModel.from_pretrained(first, str(tmp_path / "out")).merge_and_unload()  # pyright: ignore[reportCallIssue]
    merged = load_backbone(reference, weights=weights).state_dict()
    for key, value in opened.state_dict().items():
        torch.testing.assert_close(value, merged[key], rtol=0, atol=1e-6)
    assert cli.main(command) == 2
    assert "holds an adapter already; choose a new folder" in capsys.readouterr().err


def test_a_killed_run_goes_on_as_if_nothing_had_happened(workplace: Path, reference: Path):
    run = workplace / "runs/interrupted"
    command = ["exp_name=interrupted", f"init_from={workplace}/runs/first", *DROPOUT, "trainer.save_interval=4ba"]
    kill = ["+callbacks.kill._target_=killer.KillAt", "+callbacks.kill.step=7"]
    assert train_command(workplace, *command, *kill).returncode != 0
    other = train_command(workplace, *command, "adapter.rank=2")
    assert other.returncode == 1 and "differs in adapter.rank=2 (was 4)" in other.stderr
    assert "resumes at step 4" in succeeded(train_command(workplace, *command))
    assert losses(run) == losses(reference)
    for file in ("model.safetensors", "ema.safetensors", "adapter/ema/adapter_model.safetensors"):
        resumed, whole = load_file(run / file), load_file(reference / file)
        assert [key for key in whole if not torch.equal(resumed[key], whole[key])] == []


def test_the_first_step_is_of_the_first_weights(workplace: Path):
    """Without dropout, its loss is that of the same training of all weights."""
    for name, adapter in (("with", "lora"), ("without", "none")):
        command = [f"exp_name={name}", f"adapter={adapter}", "trainer.max_duration=1ba", "trainer.eval_interval=1ba"]
        train_here(workplace, *command, f"init_from={workplace}/runs/first", "~algorithms.ema")
    assert losses(workplace / "runs/with") == losses(workplace / "runs/without")


@pytest.mark.slow
@pytest.mark.parametrize("changes", [["adapter=lora"], ["optimizer=adamw_8bit", "optimizer.lr=1e-3"]])
def test_two_ranks_learn_what_one_learns(workplace: Path, changes):
    """The ranks round at random alike, so that their weights stay the same."""
    command = [f"init_from={workplace}/runs/first", *SHORT, *changes]
    bf16 = ["model.weight_dtype=bf16", "model.cpu_precision=bf16"] if "adapter=lora" not in changes else []
    found = {}
    for ranks in (1, 2):
        name = f"{changes[0].partition('=')[2]}_{ranks}"
        assert run_forked(workplace, f"exp_name={name}", *command, *bf16, ranks=ranks, seconds=250) == [0] * ranks
        found[ranks] = losses(workplace / "runs" / name)
    assert found[1] == pytest.approx(found[2], rel=0.01 if bf16 else 1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["adapter=lora"], "an adapter is trained beside the weights of a finished run; set init_from to its folder"),
        (["adapter=lora", "adapter.rank=0", "init_from=first"], "adapter.rank is 0; set it to"),
        (["adapter=lora", "adapter.targets=['*to_q']", "init_from=first"], "names *to_q, but no layer of SparseDiT is"),
        (["adapter=lora", "parallelism=fsdp", "init_from=first"], "an adapter does not go with sharded weights"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(workplace: Path, arguments, message):
    result = train_command(workplace, "exp_name=wrong", *arguments)
    assert result.returncode == 1 and message in result.stderr
    assert result.stderr.count("\n") < 4, result.stderr


def test_the_demo_is_tuned_and_generates(tmp_path: Path):
    make_latents(tmp_path, count=8, resolution=64)
    small = ["resolution=64", "sampler.steps=3", "train_loader.batch_size=4", "trainer.max_duration=3ba"]
    data = [f"{part}_loader.path={tmp_path}/latents" for part in ("train", "eval")]
    result = run_script(
        ROOT / "train.py", "--config-path", "./configs", "--config-name", "quickstart_64_finetune",
        "exp_name=mine", f"output_dir={tmp_path}/runs", *data, *small, "machine=cpu", "model.cpu_precision=fp32",
        f"init_from={find_run('demo')}", "backbone=nano", "objective=edm_small", "adapter=lora",
        "algorithms.ema.start=1ba", "eval_loader.batch_size=8",
        cwd=ROOT,
    )  # fmt: skip
    succeeded(result)
    run = tmp_path / "runs/mine"
    demo, mine = load_backbone(find_run("demo")).state_dict(), load_backbone(run).state_dict()
    changed = {key for key in mine if not torch.equal(mine[key], demo[key])}
    assert changed and all("attention" in key for key in changed)
    assert cli.main(["generate", str(run), "a red circle", "--steps", "2", "--out", str(tmp_path / "x.png")]) == 0
    assert (tmp_path / "x.png").exists()
