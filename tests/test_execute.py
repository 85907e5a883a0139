"""execute.sh with stand-ins for its commands, which note how they are called and leave what the real ones leave."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

STAND_IN = """#!/usr/bin/env bash
# Accepts the environment check (-c), passes the report (-) on to Python, and does what a step would do.
set -e
[[ $1 == -c ]] && exit 0
[[ $1 == - ]] && exec {python} "$@"
echo "${{0##*/}} $*" >>calls
for argument in "$@"; do
    [[ -e fail && $argument == *"$(cat fail 2>/dev/null)"* ]] && exit 3
    case $argument in
    exp_name=*) folder=trained_models/${{argument#*=}} ;;
    out=*) folder=${{argument#*=}} ;;
    output_dir=*) folder=${{argument#*=}}/${{folder#*/}} ;;
    esac
done
case $1 in
scripts/class_folders.py) mkdir -p "$2" ;;
train.py) mkdir -p "$folder" && echo $RANDOM >"$folder/complete.json" ;;
scripts/*) mkdir -p "$folder" && echo >"$folder/index.json" ;;
export) mkdir -p "${{@: -1}}" && echo >"${{@: -1}}/cascade.yaml" ;;
generate | nearest | report)
    [[ ${{@: -1}} == *.* ]] && echo >"${{@: -1}}" || install -D /dev/null "${{@: -1}}/0000.png"
    ;;
look)
    for step in convert autoencoder precompute plan train {{small,large}}_{{pretrain,finetune}}; do
        echo "proposed=$step" >"${{@: -1}}/$step.args"
    done
    ;;
evaluate) echo '{{"composition": {{"single": 0.5}}, "parameters": 3}}' >"${{@: -1}}" ;;
esac
"""

STAGES = ["256_pretrain", "256_finetune", "512_pretrain", "512_finetune"]


class Checkout:
    """A folder with execute.sh and the stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copy(ROOT / "execute.sh", folder)
        python = shutil.which("python3") or "python3"
        for name in ("python", "composer", "micro-diffusion"):
            stand_in = folder / "bin" / name
            stand_in.parent.mkdir(exist_ok=True)
            stand_in.write_text(STAND_IN.format(python=python))
            stand_in.chmod(0o755)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}
        command = ["bash", str(self.folder / "execute.sh"), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    def calls(self, *, of_doctor: bool = False) -> list[str]:
        """What was run since the last time: the steps, or the doctor's examinations before them."""
        record = self.folder / "calls"
        lines = record.read_text().splitlines() if record.exists() else []
        record.unlink(missing_ok=True)
        return [line for line in lines if line.startswith("micro-diffusion doctor") == of_doctor]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def train(stage: str, *more: str) -> str:
    return " ".join([f"composer train.py --config-path ./configs --config-name {stage}.yaml exp_name={stage}", *more])


@pytest.mark.parametrize("family", ["", "recipe"])
def test_each_stage_starts_from_the_one_before(checkout: Checkout, family: str):
    result = checkout.run(*([family] if family else []))
    assert result.returncode == 0, result.stderr
    stages = [f"{family}_{stage}".lstrip("_") for stage in STAGES]
    starts = [[], *[[f"init_from=trained_models/{stage}"] for stage in stages[:-1]]]
    assert checkout.calls() == [train(stage, *start) for stage, start in zip(stages, starts, strict=True)]
    assert [line.split()[0] for line in result.stdout.split("Summary:")[1].splitlines() if line] == stages


def test_complete_stages_are_skipped(checkout: Checkout):
    checkout.run()
    checkout.calls()
    shutil.rmtree(checkout.folder / "trained_models" / "512_finetune")
    result = checkout.run()
    assert checkout.calls() == [train("512_finetune", "init_from=trained_models/512_pretrain")]
    assert result.stdout.count("complete already") == 6  # three when they are met, three in the summary


def test_a_failure_stops_the_row_and_the_next_run_goes_on_there(checkout: Checkout):
    (checkout.folder / "fail").write_text("exp_name=256_finetune")
    result = checkout.run()
    assert result.returncode == 1
    assert "256_finetune failed (status 3)" in result.stderr
    assert len(checkout.calls()) == 2
    (checkout.folder / "fail").unlink()
    assert checkout.run().returncode == 0
    assert [call.split("exp_name=")[1].split()[0] for call in checkout.calls()] == STAGES[1:]


def test_overrides_reach_every_stage_and_a_complete_one_is_asked_about_them(checkout: Checkout):
    assert checkout.run("output_dir=elsewhere", "trainer.max_duration=9ba").returncode == 0
    calls = checkout.calls()
    assert all(call.endswith("output_dir=elsewhere trainer.max_duration=9ba") for call in calls)
    assert "init_from=elsewhere/512_pretrain" in calls[-1]
    checkout.run("output_dir=elsewhere", "trainer.max_duration=9ba")
    assert len(checkout.calls()) == 4


@pytest.mark.parametrize("argument", ["quikstart", "exp_name=mine", "init_from=trained_models/mine"])
def test_bad_arguments_are_refused_before_anything_runs(checkout: Checkout, argument: str):
    result = checkout.run(argument)
    assert result.returncode == 1
    assert result.stderr.startswith("execute.sh: ")
    assert argument in result.stderr
    assert result.stderr.count("\n") == 1
    assert checkout.calls() == []


def test_quickstart_ends_in_metrics_with_the_seconds_of_each_step(checkout: Checkout):
    result = checkout.run("quickstart")
    assert result.returncode == 0, result.stderr
    metrics = json.loads((checkout.folder / "trained_models/quickstart_64_finetune/metrics.json").read_text())
    assert metrics["composition"] == {"single": 0.5}
    assert metrics["parameters"] == 3
    quick = ["quickstart_32_pretrain", "quickstart_32_finetune", "quickstart_64_pretrain", "quickstart_64_finetune"]
    assert [name for name in metrics["seconds"] if name.startswith("quickstart")] == quick
    assert {"convert", "precompute", "samples", "score"} <= set(metrics["seconds"])

    checkout.calls()
    again = checkout.run("quickstart")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("complete already") == 16  # eight when they are met, eight in the summary
    # the data commands are asked whether what is there is still what their configs describe
    asked = [call.split()[1] for call in checkout.calls()]
    assert asked == [*["scripts/convert.py"] * 2, *["scripts/precompute.py"] * 2]
    assert json.loads((checkout.folder / "trained_models/quickstart_64_finetune/metrics.json").read_text()) == metrics


def test_a_cascade_trains_each_stage_by_itself_and_scores_them_together(checkout: Checkout):
    result = checkout.run("cascade", "seed=3")
    assert result.returncode == 0, result.stderr
    calls = checkout.calls()
    stages = ["shapes_16", "shapes_32_sr", "shapes_64_sr"]
    trained = [call.split("exp_name=")[1] for call in calls if "train.py" in call]
    assert sorted(trained) == [f"{stage} seed=3" for stage in stages]
    runs = " ".join(f"trained_models/{stage}" for stage in stages)
    assert f"micro-diffusion export {runs} trained_models/cascade" in calls
    assert calls[-2].startswith("micro-diffusion evaluate trained_models/shapes_32_sr")
    metrics = json.loads((checkout.folder / "trained_models/cascade/metrics.json").read_text())
    assert {*stages, "samples", "score", "psnr_shapes_64_sr"} <= set(metrics["seconds"])
    (checkout.folder / "trained_models/shapes_32_sr/complete.json").unlink()
    assert checkout.run("cascade").returncode == 0
    again = [call.split()[1] for call in checkout.calls() if not call.split()[1].startswith("scripts")]
    assert again == ["train.py", "export", "generate", "evaluate", "evaluate", "evaluate"]


def test_one_s_own_words_come_after_what_is_proposed_for_one_s_own_images(checkout: Checkout):
    (checkout.folder / "images").mkdir()
    result = checkout.run("mine", "images", "preset=12gb", "seed=3", "trainer.max_duration=9ba")
    assert result.returncode == 0, result.stderr
    calls = checkout.calls()
    stages = [f"{size}_{kind}" for size in ("small", "large") for kind in ("pretrain", "finetune")]
    trained = [call for call in calls if "train.py" in call and "mine_autoencoder " not in call.split("exp_name=")[1]]
    own = "seed=3 trainer.max_duration=9ba"
    assert [call.split("exp_name=")[1].split()[0] for call in trained] == [f"mine_{stage}" for stage in stages]
    for stage, call in zip(stages, trained, strict=True):
        assert call.endswith(f"proposed=train proposed={stage} {own}")
    plans = [call for call in calls if call.startswith("micro-diffusion plan")]
    assert [plan.endswith(own) for plan in plans] == [True] * 4
    assert "init_from=trained_models/mine_large_pretrain" in trained[-1]
    assert calls[-1].startswith("micro-diffusion report")


def test_latent_diffusion_by_class_begins_with_the_autoencoder(checkout: Checkout):
    result = checkout.run("ldm", "seed=3")
    assert result.returncode == 0, result.stderr
    calls = checkout.calls()
    assert calls[0] == "python scripts/class_folders.py data/ldm/classes"
    stages = [call.split("--config-name ")[1] for call in calls if "train.py" in call]
    names = ["ldm_vae_l1", "ldm_vae_gan", "ldm_unet"]
    starts = ["", "init_from=trained_models/ldm_vae_l1 ", ""]
    assert stages == [f"{n}.yaml exp_name={n} {start}seed=3" for n, start in zip(names, starts, strict=True)]
    encoder = "autoencoder.path=trained_models/ldm_vae_gan/autoencoder"
    assert [encoder in call for call in calls if "precompute" in call] == [True, True]
    assert "generate trained_models/ldm_unet --count 8" in calls[-2]
    assert "evaluate trained_models/ldm_unet --images data/ldm/images" in calls[-1]
    assert "score" in json.loads((checkout.folder / "trained_models/ldm_unet/metrics.json").read_text())["seconds"]


def test_latent_diffusion_at_the_full_size_takes_somebody_s_own_classes(checkout: Checkout):
    result = checkout.run("ldm", "preset=wikiart_512", "source.path=my/art", "preparation.minimum_side=256")
    assert result.returncode == 0, result.stderr
    calls = checkout.calls()
    assert "scripts/convert.py --config-name wikiart_convert preparation.split=train" in calls[0]
    assert calls[0].endswith("source.path=my/art preparation.minimum_side=256")
    trained = [call.split("exp_name=")[1].split()[0] for call in calls if call.startswith("composer train.py")]
    assert trained == ["vae_256_l1", "vae_256_gan", "vae_256_lpips", "vae_512", "unet_512"]
    assert all("source.path" not in call for call in calls if "train.py" in call)


@pytest.mark.parametrize(
    ("argument", "message"),
    [("preset=wikiart_512", "has no images; add source.path=FOLDER"), ("preset=huge", "There is no preset=huge")],
)
def test_a_preset_without_images_or_of_another_name_is_refused(checkout: Checkout, argument: str, message: str):
    result = checkout.run("ldm", argument)
    assert result.returncode == 1 and message in result.stderr and result.stderr.count("\n") == 1
    assert checkout.calls() == []


def test_the_doctor_is_asked_first_unless_all_is_done(checkout: Checkout):
    checkout.run("machine=gpu")
    assert checkout.calls(of_doctor=True) == [f"micro-diffusion doctor {' '.join(STAGES)} machine=gpu"]
    checkout.run("machine=gpu")
    assert checkout.calls(of_doctor=True) == []
    checkout.run("quickstart")
    (examination,) = checkout.calls(of_doctor=True)
    assert examination.startswith("micro-diffusion doctor --data-later quickstart_32_pretrain quickstart_32_finetune ")


def test_nothing_starts_on_a_machine_that_is_not_ready(checkout: Checkout):
    (checkout.folder / "fail").write_text("doctor")
    result = checkout.run("quickstart")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1 and "execute.sh: This machine is not ready" in result.stderr
    assert checkout.calls() == []


def test_nothing_is_ever_killed():
    assert "kill" not in (ROOT / "execute.sh").read_text()
