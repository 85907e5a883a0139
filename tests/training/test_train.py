"""`composer train.py` as a user runs it, on a data set of 24 images: six steps an epoch."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from micro_diffusion.training.checkpoints import files as checkpoint_files
from micro_diffusion.training.checkpoints.run_folder import RunFolder
from tests.damage import WAYS, damaged, says_one_sentence
from tests.forked_process import fork
from tests.small_training import (
    STEPS,
    launched,
    losses,
    make_latents,
    succeeded,
    train_command,
    train_here,
)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    make_latents(folder, count=24)
    return folder


@pytest.fixture(scope="module")
def reference(workplace) -> Path:
    """A run from start to end."""
    succeeded(launched(workplace, "exp_name=reference", ranks=1))
    return workplace / "runs" / "reference"


def test_the_run_folder_describes_itself(reference):
    names = {path.name for path in reference.iterdir()}
    assert {"config.yaml", "model.safetensors", "ema.safetensors", "complete.json", "metrics.jsonl"} <= names
    assert {"checkpoints", "samples", "tensorboard"} <= names
    text = (reference / "config.yaml").read_text()
    assert "${" not in text and OmegaConf.create(text).backbone.dim == 32
    raw, average = load_file(reference / "model.safetensors"), load_file(reference / "ema.safetensors")
    assert raw.keys() == average.keys()
    assert not any(torch.equal(raw[key], average[key]) for key in ("blocks.0.norm1.weight", "patch_embedding.weight"))
    assert not any(key.startswith(("module.", "_orig_mod.", "backbone.")) for key in raw)
    assert sorted(p.name for p in (reference / "samples").iterdir()) == ["step_0000009.png", "step_0000018.png"]
    assert json.loads((reference / "complete.json").read_text())["batches"] == STEPS
    assert sorted(losses(reference)) == list(range(STEPS))


def test_what_is_complete_is_not_trained_again(reference, workplace, caplog):
    before = (reference / "model.safetensors").stat().st_mtime_ns
    with caplog.at_level("INFO"):
        train_here(workplace, "exp_name=reference")
    assert "complete already; nothing to do" in caplog.text
    assert (reference / "model.safetensors").stat().st_mtime_ns == before


def test_a_run_does_not_end_before_where_it_is(reference, workplace):
    before = (reference / "complete.json").read_text()
    with pytest.raises(ValueError, match=r"reference has trained 18ba already, more than trainer\.max_duration=4ba"):
        train_here(workplace, "exp_name=reference", "trainer.max_duration=4ba", "accept_changes=[trainer.max_duration]")
    assert (reference / "complete.json").read_text() == before
    assert OmegaConf.load(reference / "config.yaml").trainer.max_duration == "18ba"


@pytest.mark.slow
def test_a_run_that_is_lengthened_takes_the_longer_schedule_from_there_on(workplace, caplog):
    def rates(name: str) -> dict[int, float]:
        lines = [json.loads(line) for line in (workplace / "runs" / name / "metrics.jsonl").read_text().splitlines()]
        return {line["step"]: value for line in lines for key, value in line.items() if key.startswith("lr-")}

    train_here(workplace, "exp_name=longer", "trainer.max_duration=3ba")
    with pytest.raises(
        ValueError, match=r"set these back to resume that run, or accept_changes=\[trainer\.max_duration\]"
    ):
        train_here(workplace, "exp_name=longer", "trainer.max_duration=6ba")
    accepted = ["trainer.max_duration=6ba", "accept_changes=[trainer.max_duration]"]
    with caplog.at_level("INFO"):
        train_here(workplace, "exp_name=longer", *accepted)
    assert "goes on at step 3 with trainer.max_duration=6ba (was 3ba)" in caplog.text
    note = json.loads((workplace / "runs" / "longer" / "changes.jsonl").read_text().splitlines()[-1])
    assert note == {"step": 3, "key": "trainer.max_duration", "before": "3ba", "after": "6ba"}
    train_here(workplace, "exp_name=long", *accepted)
    longer, long = rates("longer"), rates("long")
    assert [longer[step] for step in (4, 5)] == [long[step] for step in (4, 5)] and longer[2] != long[2]


def test_a_last_step_may_go_beyond_a_number_of_samples(workplace):
    command = ["exp_name=samples", "trainer.max_duration=6sp"]  # of batches of 4
    handlers, frozen = signal.getsignal(signal.SIGTERM), gc.get_freeze_count()
    train_here(workplace, *command)
    assert (signal.getsignal(signal.SIGTERM), gc.get_freeze_count()) == (handlers, frozen)  # as before
    complete = workplace / "runs" / "samples" / "complete.json"
    complete.unlink()
    train_here(workplace, *command)
    assert json.loads(complete.read_text())["samples"] == 8


def test_a_killed_run_goes_on_as_if_nothing_had_happened(reference, workplace):
    """Killed within an epoch, after the checkpoint between two epochs, and after one at the last step of an epoch."""
    run = workplace / "runs" / "interrupted"
    kill = ["+callbacks.kill._target_=killer.KillAt"]
    for interval, step in (("4ba", 5), ("1ep", 8), ("6ba", 14)):
        result = train_command(
            workplace,
            "exp_name=interrupted",
            f"trainer.save_interval={interval}",
            *kill,
            f"+callbacks.kill.step={step}",
        )
        assert result.returncode != 0 and not (run / "complete.json").exists(), result.stderr[-3000:]
        assert max(losses(run)) == step - 1
    output = succeeded(train_command(workplace, "exp_name=interrupted"))
    assert "resumes at step 12" in output
    assert losses(run) == losses(reference)
    for file in ("model.safetensors", "ema.safetensors"):
        resumed, whole = load_file(run / file), load_file(reference / file)
        assert [key for key in whole if not torch.equal(resumed[key], whole[key])] == []


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_run_that_is_told_to_end_saves_its_step_first(reference, workplace, caplog, monkeypatch, name):
    monkeypatch.syspath_prepend(workplace)
    told = ["+callbacks.kill._target_=killer.KillAt", "+callbacks.kill.step=7", f"+callbacks.kill.name={name}"]
    with caplog.at_level("INFO"):
        with pytest.raises(SystemExit) as end:
            train_here(workplace, f"exp_name={name}", *told)
        assert end.value.code == 128 + signal.Signals[name]
        assert f"{name}: ends after step 8; the same command goes on from the last checkpoint" in caplog.text
        train_here(workplace, f"exp_name={name}")
    assert "resumes at step 8" in caplog.text
    assert losses(workplace / "runs" / name) == losses(reference)


def test_a_training_in_a_folder_that_another_one_uses_is_refused(workplace):
    run, (ready, begun) = RunFolder(workplace / "runs" / "held", {}), os.pipe()

    def hold() -> None:
        with run.locked():
            os.write(begun, b"!")
            signal.pause()

    holder = fork(hold, workplace / "holder.log")
    assert os.read(ready, 1)
    try:
        with pytest.raises(BlockingIOError, match=rf"is in use by another training \(process {holder} on"):
            train_here(workplace, "exp_name=held", "trainer.max_duration=3ba")
    finally:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
    assert [path.name for path in run.path.iterdir()] == ["run.lock"]


@pytest.mark.parametrize(
    ("folder", "way"),
    [
        ("null", "with trainer.save_folder=null nothing is saved, so begin again with another exp_name"),
        ("${output_dir}/${exp_name}/checkpoints", "it does not go on, but another exp_name may start from its last"),
    ],
)
def test_a_run_that_does_not_go_on_says_so(workplace, caplog, monkeypatch, folder, way):
    monkeypatch.syspath_prepend(workplace)
    command = [f"exp_name=ends_{folder == 'null'}", f"trainer.save_folder={folder}", "trainer.autoresume=false"]
    told = "+callbacks.kill={_target_: killer.KillAt, step: 2, name: SIGTERM}"
    with pytest.raises(SystemExit):
        train_here(workplace, *command, told)
    assert "SIGTERM: ends after step 3; " in caplog.text and way in caplog.text
    run = workplace / "runs" / command[0].partition("=")[2]
    measured = (run / "metrics.jsonl").read_text()
    with pytest.raises(ValueError, match=r"holds a training already, .* trainer\.autoresume is false; choose another"):
        train_here(workplace, *command)
    assert (run / "metrics.jsonl").read_text() == measured and not (run / "changes.jsonl").exists()


def test_the_next_stage_starts_from_the_average(reference, workplace, caplog):
    with caplog.at_level("INFO"):
        train_here(
            workplace,
            "exp_name=next",
            f"init_from={reference}",
            "optimizer.lr=0.0",
            "trainer.max_duration=3ba",
            config="quickstart_32_finetune",
        )
    assert f"starts from the averaged (EMA) weights of {reference}: " in caplog.text
    average = load_file(reference / "ema.safetensors")
    result = load_file(workplace / "runs" / "next" / "model.safetensors")
    assert [key for key in average if not torch.equal(average[key], result[key])] == []


def test_a_stage_starts_from_a_checkpoint_of_composer(reference, workplace):
    """The raw weights, since the objective, the positions and the averaging are those of the new stage."""
    train_here(
        workplace,
        "exp_name=loaded",
        f"trainer.load_path={reference}/checkpoints/latest-rank0.pt",
        "optimizer.lr=0.0",
        "trainer.max_duration=3ba",
        config="quickstart_64_finetune",
    )
    raw = load_file(reference / "model.safetensors")
    result = load_file(workplace / "runs" / "loaded" / "model.safetensors")
    assert [key for key in raw if not torch.equal(raw[key], result[key])] == []
    assert sorted(losses(workplace / "runs" / "loaded")) == [0, 1, 2]


@pytest.mark.parametrize("key", ["init_from", "trainer.load_path"])
def test_a_run_with_a_checkpoint_of_its_own_needs_its_first_weights_no_more(
    reference, workplace, caplog, monkeypatch, key
):
    monkeypatch.syspath_prepend(workplace)
    start, run = workplace / "runs" / f"start_{key}", workplace / "runs" / f"orphan_{key}"
    shutil.copytree(reference, start, symlinks=True)
    first = start if key == "init_from" else start / "checkpoints" / "latest-rank0.pt"
    command = [f"exp_name={run.name}", f"{key}={first}", "trainer.max_duration=4ba"]
    with pytest.raises(SystemExit):
        train_here(workplace, *command, "+callbacks.kill={_target_: killer.KillAt, step: 2, name: SIGTERM}")
    shutil.rmtree(start)
    checkpoint = (run / "checkpoints" / "latest-rank0.pt").resolve()
    content = checkpoint.read_bytes()
    aside = (run / "checkpoints").rename(workplace / f"aside_{key}")
    with pytest.raises(OSError, match=str(start)):
        train_here(workplace, *command)
    aside.rename(run / "checkpoints")
    checkpoint.write_bytes(content[:-100])
    measured = (run / "metrics.jsonl").read_text()
    with pytest.raises(ValueError, match="holds no whole checkpoint any more"):
        train_here(workplace, *command)
    assert (run / "metrics.jsonl").read_text() == measured
    checkpoint.write_bytes(content)
    checked = []
    monkeypatch.setattr(checkpoint_files, "check_archive", checked.append)
    with caplog.at_level("INFO"):
        train_here(workplace, *command)
    assert "resumes at step 3" in caplog.text and sorted(losses(run)) == [0, 1, 2, 3]
    assert checked == [checkpoint]  # once, since it may be large
    assert OmegaConf.select(OmegaConf.load(run / "config.yaml"), key) == str(first)


class Code:
    """An object that makes a folder where it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", [2, 4])
def test_code_in_a_checkpoint_is_not_run_unless_it_is_trusted(reference, workplace, protocol):
    """Also below output_dir, where a run that was downloaded may lie."""
    run, ran = workplace / "runs" / f"downloaded_{protocol}", workplace / f"ran_{protocol}"
    content = torch.load(reference / "checkpoints" / "latest-rank0.pt", weights_only=False)
    (run / "checkpoints").mkdir(parents=True)
    torch.save({**content, "note": Code(ran)}, run / "checkpoints" / "evil.pt", pickle_protocol=protocol)
    command = [f"exp_name=careless_{protocol}", f"trainer.load_path={run}/checkpoints/evil.pt"]
    with pytest.raises(
        ValueError, match=r"reading .*evil.pt would .*; set trust_checkpoint=true if you trust who made"
    ):
        train_here(workplace, *command)
    assert not ran.exists()
    with pytest.raises(FileExistsError, match=ran.name):  # of the second time that it is read
        train_here(workplace, *command, "trust_checkpoint=true")
    assert ran.exists()


def test_a_checkpoint_of_another_network_is_refused(reference, workplace):
    load = [f"trainer.load_path={reference}/checkpoints/latest-rank0.pt"]
    with pytest.raises(
        ValueError, match=r"latest-rank0.pt does not fit the network: \d+ missing \(network\.mixer\.1\.norm1"
    ) as error:
        train_here(workplace, "exp_name=unfit", *load, "backbone.mixer_depth=2")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (["optimizer=adamw", "optimizer.lr=1"], r"holds the state of the optimizer Muon, of which AdamW would take n"),
        (["optimizer.lr=0.5"], r"that would replace those .* embeddings\.lr 0\.002 \(instead of 0\.5\)"),
        (["optimizer.betas=[0.5,0.9]"], r"\.betas \(0\.9, 0\.99\) \(instead of \(0\.5, 0\.9\)\)"),
        (["~algorithms.ema"], r"holds the state of 1 algorithms that would be lost \(EMA\); add them to algorithms"),
        (["+trainer.load_exclude_algorithms=[EMA]"], r"names EMA, which this training has and would load; take it out"),
        (["+trainer.load_ignore_keys=[zzz]"], r"were ignored by load_ignore_key zzz, of .*; correct trainer\.load_ig"),
        (["+trainer.load_ignore_keys=['state/model/*patch*']"], r"does not fit the network: \d+ missing \(network\.p"),
    ],
)
def test_a_state_that_would_be_loaded_in_part_is_refused(reference, workplace, changes, problem):
    load = [f"trainer.load_path={reference}/checkpoints/latest-rank0.pt"]
    with pytest.raises(ValueError, match=problem):
        train_here(workplace, "exp_name=partial", *load, "trainer.load_weights_only=false", *changes)


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_checkpoint_is_one_sentence(reference, workplace, capsys, way):
    path = workplace / "runs" / f"damaged_{way}.pt"
    path.write_bytes(damaged(reference / "checkpoints" / "latest-rank0.pt", way))
    command = ["exp_name=unfit", f"trainer.load_path={path}", "trust_checkpoint=true"]
    assert str(path) in says_one_sentence(capsys, lambda: train_here(workplace, *command))


@pytest.mark.slow
def test_what_a_run_learns_follows_from_its_settings_and_its_seed(workplace):
    """Of settings that no stage has: the same numbers twice, and others with another seed."""
    chosen = ["optimizer.momentum=0.5", "optimizer.steps=1", "algorithms.ema.start=0.5dur", "+backbone.norm_eps=1e-5"]
    for name, seed in (("one", 5), ("same", 5), ("other", 6)):
        train_here(workplace, f"exp_name=seed_{name}", f"seed={seed}", *chosen, "trainer.max_duration=2ba")
    one, same, other = (losses(workplace / "runs" / f"seed_{name}") for name in ("one", "same", "other"))
    assert one == same and sorted(one) == [0, 1] and one[1] != other[1]


def test_weights_that_are_no_checkpoint_are_refused(workplace):
    torch.save({"weight": torch.zeros(3)}, workplace / "runs" / "weights.pt")
    load = f"trainer.load_path={workplace}/runs/weights.pt"
    with pytest.raises(ValueError, match=r"weights\.pt is no checkpoint of Composer; set init_from to a run folder"):
        train_here(workplace, "exp_name=unfit", load, "trust_checkpoint=true")


def test_another_configuration_is_refused(reference, workplace):
    with pytest.raises(
        ValueError,
        match=r"holds a run of another configuration, which differs in seed=5 \(was 18\), .*; choose another",
    ):
        train_here(workplace, "exp_name=reference", "seed=5")


@pytest.mark.slow
def test_two_ranks_write_one_run_folder(workplace):
    succeeded(launched(workplace, "exp_name=two", "trainer.max_duration=4ba", ranks=2))
    run = workplace / "runs" / "two"
    assert sorted(losses(run)) == [0, 1, 2, 3]  # each once
    assert len(list((run / "tensorboard").iterdir())) == 1


@pytest.mark.slow
def test_a_compiled_network_learns_the_same_and_is_evaluated(workplace, reference):
    succeeded(train_command(workplace, "exp_name=compiled", "trainer.compile_config={backend: aot_eager}"))
    run = workplace / "runs" / "compiled"
    assert losses(run) == pytest.approx(losses(reference), rel=0.05)
    assert "metrics/eval/loss" in (run / "metrics.jsonl").read_text()
    drawn, expected = ([path.name for path in sorted((folder / "samples").iterdir())] for folder in (run, reference))
    assert drawn == expected


@pytest.mark.parametrize("key", ["init_from", "trainer.load_path"])
def test_positions_that_the_first_weights_never_saw_are_mentioned(reference, workplace, caplog, key):
    place = reference if key == "init_from" else reference / "checkpoints" / "latest-rank0.pt"
    changes = [f"exp_name=wide_{key}", f"{key}={place}", "backbone.position_scale=0.5"]
    train_here(workplace, *changes, "trainer.max_duration=3ba")
    assert "were trained at positions below 4, but those of this stage reach 8" in caplog.text
