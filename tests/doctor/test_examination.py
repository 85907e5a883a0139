"""The doctor on a small stage with everything in order, and with each thing broken in turn."""

import json
import os
import shutil
import sys
from functools import partial
from importlib import metadata
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from streaming import MDSWriter

from micro_diffusion import cli
from micro_diffusion.checkpoint import write_config
from micro_diffusion.data.stream.integrity import check_hashes
from micro_diffusion.doctor import examination, machine
from micro_diffusion.doctor.data import check_data
from micro_diffusion.doctor.examination import all_stages, examine
from micro_diffusion.doctor.finding import Doubt, Finding, find, line
from micro_diffusion.doctor.run import check_remote_folder
from micro_diffusion.training.config_checks import coherence
from micro_diffusion.training.config_checks.resolvers import register_resolvers
from tests.data.s3_server import s3_client
from tests.small_training import make_latents

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
STAGE = "quickstart_32_pretrain"
SMALL = ["resolution=16", "machine=cpu", "train_loader.batch_size=4", "eval_loader.batch_size=4"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doctor")
    make_latents(folder, count=12)
    return folder / "latents"


@pytest.fixture
def latents(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "latents"))


def overrides(latents: Path, *more: str) -> list[str]:
    paths = [f"{part}_loader.path={latents}" for part in ("train", "eval")]
    return [*paths, f"output_dir={latents.parent}/runs", *SMALL, *more]


def findings(latents: Path, *more: str, **options: bool) -> dict[str, Finding]:
    found = examine(CONFIGS, [STAGE], overrides(latents, *more), **options)
    return {finding.subject.removeprefix(f"{STAGE} "): finding for finding in found}


def test_all_is_well(latents: Path):
    found = findings(latents, deep=True)
    assert {finding.state for finding in found.values()} == {"good"}, found
    subjects = ["python", "libraries", "configuration", "run folder", "first weights", "device", "shared memory"]
    subjects += ["autoencoder", "text_encoder", "train_loader", "eval_loader", "encoders", "step", "disk"]
    assert list(found) == subjects
    assert "12 samples" in found["train_loader"].text and "all hashes right" in found["train_loader"].text
    assert found["step"].text.startswith("loss ") and "on 2 samples" in found["step"].text
    assert not (latents.parent / "runs").exists()  # it looks, and changes nothing


def test_what_an_earlier_stage_makes_need_not_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    stages = ["ldm_vae_gan", "ldm_unet"]
    found = {finding.subject: finding for finding in examine(CONFIGS, stages, ["machine=cpu"], data_later=True)}
    assert (
        found["ldm_unet autoencoder"].text == "of trained_models/ldm_vae_gan/autoencoder, which an earlier stage makes"
    )
    assert found["ldm_unet configuration"].state == "good"
    alone = {finding.subject: finding for finding in examine(CONFIGS, ["ldm_unet"], ["machine=cpu"], data_later=True)}
    assert alone["ldm_unet autoencoder"].state == "bad"


@pytest.mark.parametrize(("stages", "state"), [([STAGE], "bad"), ([], "warning")])
def test_a_library_that_some_stages_need_is_missed_where_they_are_asked_for(latents, monkeypatch, stages, state):
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setattr(examination, "all_stages", lambda configs: [STAGE])
    found = examine(CONFIGS, stages, overrides(latents, "adapter=lora", f"init_from={latents.parent}"))
    (finding,) = [finding for finding in found if finding.subject == f"{STAGE} configuration"]
    assert finding.state == state and "pip install 'micro_diffusion[finetune]'" in finding.text


def test_lpips_without_weights_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    found = examine(CONFIGS, ["vae_512"], ["machine=cpu", "model.perceptual.path=gone.pth"], data_later=True)
    (finding,) = [finding for finding in found if finding.subject == "vae_512 perceptual"]
    assert finding.state == "bad" and "there are no LPIPS weights at gone.pth" in finding.text


@pytest.mark.parametrize(
    ("change", "subject", "sentence"),
    [
        ("sampler.stepz=3", "configuration", "nothing takes the key sampler.stepz; did you mean steps?"),
        ("backbone.dim=33", "configuration", "dim=33 is no multiple of head_dim"),
        ("init_weights=raw", "configuration", "init_weights=raw has no effect without init_from"),
        ("+callbacks.monitor._target_=composer.NoSuchThing", "configuration", "_target_ composer.NoSuchThing cannot"),
        ("train_loader.caption_probabilities=[0.5,0.5]", "train_loader", "but the data hold 1 captions an image"),
        ("resolution=32", "train_loader", "the data have latents at 16 px, not at 32"),
        ("backbone.in_channels=3", "train_loader", "set backbone.in_channels=4"),
        ("train_loader.path=nowhere", "train_loader", "there is no data folder nowhere; make it with: python scripts"),
        ("train_loader.caption_probabilities=[0.5,0.5]", "train_loader", "but the data hold 1 captions an image; set"),
        ("autoencoder.path=nowhere", "autoencoder", "there is no config.json in nowhere"),
        ("text_encoder=open_clip", "text_encoder", "neither a folder nor in the cache of the Hugging Face hub"),
        ("machine=gpu", "device", "torch finds no GPU; set machine=cpu"),
        ("init_from=nowhere", "first weights", "there is no run folder nowhere"),
        ("output_dir=/proc/nowhere", "disk", "/proc cannot be written"),
    ],
)
def test_what_is_broken_is_red_and_says_what_to_do(
    latents: Path, change: str, subject: str, sentence: str, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith("/proc"))
    found = findings(latents, change)
    assert found[subject].state == "bad"
    assert sentence in found[subject].text
    assert "\n" not in found[subject].text


PARALLEL = [["machine=24gb"], ["machine=12gb"], ["machine=80gb"], ["parallelism=fsdp"], ["parallelism=hsdp"]]


@pytest.mark.parametrize("options", PARALLEL, ids=" ".join)
def test_machines_and_parallelism_are_examined_without_their_devices(latents: Path, options: list[str], monkeypatch):
    """On this machine without a GPU only the device is bad, and what is wrong in the setting is still found."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = findings(latents, *options)
    is_gpu = options[0].startswith("machine")
    assert {name for name, finding in found.items() if finding.state == "bad"} == ({"device"} if is_gpu else set())
    assert found["step"].state == ("warning" if is_gpu else "good")
    wrong = findings(latents, "parallelism=fsdp", "parallelism.fsdp.replicas=3")["configuration"]
    assert "parallelism.fsdp.replicas is 3, but 1 ranks do not divide by that" in wrong.text


def test_a_first_checkpoint_that_is_not_there_is_red(latents: Path):
    path = latents.parent / "runs/earlier/checkpoints/latest-rank0.pt"
    load = [f"trainer.load_path={path}", "trust_checkpoint=true"]
    found = findings(latents, *load)["first weights"]
    assert found.state == "bad" and f"there is no checkpoint {path}; set trainer.load_path" in found.text
    path.parent.mkdir(parents=True)
    path.touch()
    assert findings(latents, *load)["first weights"].state == "good"


def test_the_store_of_checkpoints_is_asked(monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    content = {"output_dir": "runs", "exp_name": "mine", "trainer": {"save_folder": "s3://checkpoints/mine"}}
    ask = partial(check_remote_folder, content)
    with s3_client("checkpoints") as client:
        client.put_object(Bucket="checkpoints", Key="mine/ep1-ba2-rank0.pt", Body=b"")
        assert find("remote", ask) == Finding(
            "remote", "good", "s3://checkpoints/mine answers, with 1 checkpoints in it"
        )
        client.delete_object(Bucket="checkpoints", Key="mine/ep1-ba2-rank0.pt")
        client.delete_bucket(Bucket="checkpoints")
        assert find("remote", ask).state == "bad"
    monkeypatch.setenv("S3_ENDPOINT_URL", "http://127.0.0.1:9")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "nobody")
    silent = find("remote", ask)
    assert silent.state == "bad" and "s3://checkpoints/mine cannot be listed (Could not connect" in silent.text
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert find("remote", ask).state == "bad"


def test_a_remote_folder_is_one_of_the_findings(latents: Path, monkeypatch):
    monkeypatch.setattr(examination, "check_remote_folder", lambda content: content["trainer"]["save_folder"])
    found = findings(latents, "trainer.save_folder=s3://checkpoints/${exp_name}", "trust_checkpoint=true")
    assert found["remote folder"].text == f"s3://checkpoints/{STAGE}"


def test_first_weights_that_an_earlier_stage_makes_are_no_error(latents: Path):
    first, second = STAGE, "quickstart_32_finetune"
    changes = overrides(latents, f"init_from={latents.parent}/runs/{first}")
    for stages, state in (([first, second], "good"), ([second], "bad"), ([second, first], "bad")):
        found = {finding.subject: finding.state for finding in examine(CONFIGS, stages, changes)}
        assert found[f"{second} first weights"] == state, stages


def begin(stage: str, folder: Path, changes: list[str]) -> None:
    """The run folder as an interrupted training leaves it."""
    register_resolvers()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        write_config(folder, OmegaConf.to_container(compose(stage, overrides=changes), resolve=True))
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "latest-rank0.pt").touch()


def test_the_folder_of_another_run_is_red(latents: Path):
    begin(STAGE, latents.parent / "runs" / STAGE, overrides(latents))
    assert "holds this run, which goes on" in findings(latents)["run folder"].text
    found = findings(latents, "optimizer.lr=1")["run folder"]
    assert found.state == "bad" and "run of another configuration, which differs in optimizer.lr=1" in found.text


def test_stages_that_share_a_folder_are_red(latents: Path):
    second = "quickstart_32_finetune"
    found = {
        finding.subject: finding for finding in examine(CONFIGS, [STAGE, second], overrides(latents, "exp_name=x"))
    }
    assert found[f"{STAGE} run folder"].state == "good" and found[f"{second} run folder"].state == "bad"
    assert "runs/x is the run folder of an earlier stage; leave exp_name out" in found[f"{second} run folder"].text
    shared = overrides(latents, f"trainer.save_folder={latents.parent}/checkpoints", "trust_checkpoint=true")
    found = {finding.subject: finding for finding in examine(CONFIGS, [STAGE, second], shared)}
    for stage in (STAGE, second):
        assert found[f"{stage} configuration"].state == "bad"
        assert f"put its exp_name, {stage}, into that path" in found[f"{stage} configuration"].text


def test_an_interrupted_row_of_stages_goes_on(latents: Path):
    second = "quickstart_32_finetune"
    runs = latents.parent / "runs"
    begin(second, runs / second, overrides(latents, f"init_from={runs / STAGE}"))
    for stages, state in (([STAGE, second], "good"), ([second], "bad")):
        found = {finding.subject: finding.state for finding in examine(CONFIGS, stages, overrides(latents))}
        assert found[f"{second} run folder"] == state


def mixture(*folders: Path) -> list[str]:
    part = "_target_: micro_diffusion.data.stream.mixture.Part"
    nodes = ", ".join(f"part{number}: {{{part}, path: {folder}}}" for number, folder in enumerate(folders))
    return ["train_loader.path=null", f"train_loader.mixture={{{nodes}}}"]


def test_every_part_of_a_mixture_is_examined(latents: Path):
    other = latents.parent / "other"
    shutil.copytree(latents, other)
    found = findings(latents, *mixture(latents, other), deep=True)
    assert {finding.state for finding in found.values()} == {"good"}, found
    assert found["train_loader"].text.count("12 samples in") == found["train_loader"].text.count("hashes right") == 2
    next(other.rglob("*.mds")).unlink()
    assert f"{other} lacks its shard" in findings(latents, *mixture(latents, other))["train_loader"].text
    assert "is in the mixture twice" in findings(latents, *mixture(latents, latents))["train_loader"].text


def test_no_data_at_all_are_named(latents: Path):
    found = findings(latents, "train_loader.path=null")["train_loader"]
    assert found.state == "bad" and "there are no data; set path to a folder of latents" in found.text


def test_remote_data_that_cannot_be_reached_are_red(latents: Path):
    found = findings(latents, "train_loader.remote=nowhere", f"train_loader.path={latents.parent}/copies")
    assert found["train_loader"].state == "bad" and "set it to an address such as" in found["train_loader"].text


def test_hashes_of_remote_data_are_said_to_be_unread(latents: Path):
    content = {"train_loader": {"path": str(latents), "remote": "s3://bucket/latents"}}
    with pytest.raises(
        Doubt, match=r"12 samples in s3://.*, but hashes of remote data are not verified; \+train_loader"
    ):
        check_data(content, "train_loader", deep=True)
    assert "12 samples" in check_data(content, "train_loader", deep=False)


def test_a_damaged_shard_is_found_when_every_byte_is_read(latents: Path):
    shard = next(latents.rglob("*.mds"))
    content = bytearray(shard.read_bytes())
    content[-9] ^= 1
    shard.write_bytes(content)
    assert findings(latents)["eval_loader"].state == "good"
    assert "have changed since it was written" in findings(latents, deep=True)["eval_loader"].text
    shard.write_bytes(content[:-9])
    assert "bytes instead of" in findings(latents)["train_loader"].text


def test_a_damaged_compressed_shard_is_found_too(tmp_path: Path):
    with MDSWriter(out=str(tmp_path), columns={"n": "int"}, compression="zstd", hashes=["xxh64"]) as writer:
        for number in range(20):
            writer.write({"n": number})
    check_hashes(tmp_path)
    shard = next(tmp_path.glob("*.zstd"))
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"the bytes of .*\.zstd have changed since it was written"):
        check_hashes(tmp_path)


def test_shards_without_a_hash_are_not_called_right(tmp_path: Path):
    with MDSWriter(out=str(tmp_path), columns={"n": "int"}) as writer:
        writer.write({"n": 1})
    with pytest.raises(ValueError, match=r"has no hash of shard\.00000\.mds; write the data with hashes"):
        check_hashes(tmp_path)


def test_data_of_another_encoder_are_red(latents: Path):
    record = latents / "metadata.json"
    content = json.loads(record.read_text())
    content["encoders"]["autoencoder"]["digest"] = "of another one"
    record.write_text(json.dumps(content))
    finding = findings(latents)["encoders"]
    assert finding.state == "bad" and "of another one" in finding.text


def test_latents_of_an_unusual_size_are_a_warning(latents: Path):
    finding = findings(latents, "objective=edm_small", "objective.sigma_data=4")["train_loader"]
    assert finding.state == "warning" and "but objective.sigma_data is 4; set it to about that" in finding.text


def test_data_that_will_be_made_are_no_error(latents: Path):
    shutil.rmtree(latents)
    assert findings(latents)["train_loader"].state == "bad"
    found = findings(latents, data_later=True)
    assert found["train_loader"].state == found["step"].state == "warning"
    latents.mkdir()
    assert findings(latents, data_later=True)["train_loader"].state == "bad"


def test_a_full_disk_is_red(latents: Path, monkeypatch: pytest.MonkeyPatch):
    full = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    found = findings(latents, "train_loader.workers=2")
    assert found["disk"].state == found["shared memory"].state == "bad"
    assert "checkpoints and weights need" in found["disk"].text
    assert "docker run --shm-size" in found["shared memory"].text


def test_segments_of_a_killed_process_are_a_warning(latents: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "stale_segments", lambda data: [Path("/dev/shm/000000_locals")])
    finding = findings(latents)["shared memory"]
    assert finding.state == "warning" and "the next training removes them" in finding.text


def test_a_library_out_of_bounds_is_red(monkeypatch: pytest.MonkeyPatch):
    versions = {"torch": "1.0", "hydra-core": None}

    def version(name: str, real=metadata.version) -> str:
        if name in versions and versions[name] is None:
            raise metadata.PackageNotFoundError(name)
        return versions.get(name) or real(name)

    monkeypatch.setattr(machine.metadata, "version", version)
    finding = find("libraries", machine.check_libraries)
    assert finding.state == "bad"
    assert "torch is 1.0 instead of <2.7.1,>=2.6" in finding.text and "hydra-core is missing" in finding.text


def test_another_python_is_red(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine.platform, "python_version", lambda: "3.9.1")
    with pytest.raises(ValueError, match="Python is 3.9.1, but .* is needed"):
        machine.check_python()


def test_a_driver_without_a_usable_gpu_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "GPU_DRIVER", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Doubt, match="although this machine has an NVIDIA driver"):
        machine.check_device("cpu")


SOME = ["256_pretrain", "quickstart_64_finetune", "train_autoencoder"]


@pytest.mark.parametrize(
    "stages", [SOME, pytest.param(all_stages(CONFIGS), marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_without_a_stage_all_are_built_and_nothing_else_is_needed(stages, monkeypatch: pytest.MonkeyPatch):
    """On a processor that multiplies bf16, which stages of weights in bf16 need."""
    monkeypatch.setattr(examination, "all_stages", lambda configs: stages)
    monkeypatch.setattr(coherence, "has_bf16", lambda kind: True)
    found = list(examine(CONFIGS, [], ["machine=cpu"]))
    assert [each.subject.split()[0] for each in found if each.subject.endswith(" configuration")] == stages
    assert [finding for finding in found if finding.state == "bad"] == []
    assert {*SOME} <= set(all_stages(CONFIGS)) and len(all_stages(CONFIGS)) >= 9 and "xl" not in all_stages(CONFIGS)


def test_a_line_shows_its_state():
    assert line(Finding("disk", "bad", "full"), 6, coloured=False) == "bad      disk    full"
    assert "\033[31m" in line(Finding("disk", "bad", "full"), 6, coloured=True)


def test_the_command_prints_a_line_each_and_fails_on_red(latents: Path, capsys: pytest.CaptureFixture[str]):
    options = ["doctor", "--configs", str(CONFIGS), STAGE]
    assert cli.main([*options, *overrides(latents)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 14 and all(text.startswith("good ") for text in lines)
    assert cli.main([*options, *overrides(latents, "sampler.steps=0", "~algorithms.ema")]) == 2
    output = capsys.readouterr()
    assert output.out.splitlines()[-1].split(maxsplit=3) == [
        *("bad", STAGE, "configuration"),
        "sampler.steps is 0; set it to a whole number of at least 1",
    ]
    assert output.err.splitlines() == [
        "micro-diffusion: error: 1 bad: quickstart_32_pretrain configuration; do what is said above, then ask again"
    ]
