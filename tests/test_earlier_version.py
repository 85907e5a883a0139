"""What version 0.1 wrote still works: prepared data, a finished run, and one that was interrupted at step 10 of 18.

`fixtures/earlier_version` was written by the code of 2026-11-21, before modules and keys were renamed. Both runs had
the same settings; the finished one tells what the interrupted one has to come to.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from micro_diffusion.checkpoint import load_run
from micro_diffusion.data.format.metadata import LatentMetadata
from micro_diffusion.files.weight_file import read_tensors
from micro_diffusion.text.tiny import TinyTextEncoder
from tests.forked_process import run_script
from tests.small_training import CONFIG, ROOT, SMALL, succeeded

FIXTURE = ROOT / "tests" / "fixtures" / "earlier_version"
SETTINGS = [
    *SMALL,
    "objective=edm_small",
    "backbone=nano",
    "algorithms.ema.smoothing=0.998",
    "algorithms.ema.width=null",
    "text_encoder.dim=24",
    "text_encoder.max_length=12",
    "text_encoder.window=3",
    "backbone.dim=16",
    "backbone.head_dim=16",
    "backbone.mixer_dim=16",
    "backbone.multiple_of=8",
    "output_dir=runs",
    "train_loader.path=latents",
    "eval_loader.path=latents",
    "trainer.save_interval=5ba",
]


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    return shutil.copytree(FIXTURE, tmp_path / "earlier", symlinks=True)


def train(workplace: Path, name: str) -> str:
    return succeeded(run_script(ROOT / "train.py", *CONFIG, *SETTINGS, f"exp_name={name}", cwd=workplace))


def test_an_interrupted_run_goes_on_to_the_weights_of_the_uninterrupted_one(workplace: Path):
    """Processors round differently, which ten steps amplify: errors are measured by how far these steps lead."""
    checkpoint = workplace / "runs/interrupted/checkpoints/ep4-ba10-rank0.pt"
    start = torch.load(checkpoint, map_location="cpu", weights_only=False)["state"]["model"]
    assert "resumes at step 10" in train(workplace, "interrupted")
    expected, weights, averages, average = (
        read_tensors(workplace / "runs" / run / f"{kind}.safetensors")
        for kind in ("model", "ema")
        for run in ("finished", "interrupted")
    )
    assert weights.keys() == expected.keys() == averages.keys() == average.keys()
    for name, value in weights.items():
        led = (expected[name] - start[f"network.{name}"]).norm()
        assert led > 0 and (value - expected[name]).norm() < 0.1 * led, name
        assert (average[name] - averages[name]).norm() < 0.002 * led, name  # they move far less


def test_a_finished_run_is_known_to_be_complete(workplace: Path):
    assert "is complete already" in train(workplace, "finished")


def test_a_finished_run_loads(workplace: Path):
    run = load_run(workplace / "runs" / "finished")
    assert run.weights == "ema" and run.objective.process.sigma_data == 1.0 and run.sampler.steps == 2


def test_records_of_prepared_data_are_read_in_todays_names(workplace: Path):
    metadata = LatentMetadata.read(workplace / "latents")
    assert metadata.captions_per_image == 1 and metadata.samples == 8


def test_the_window_of_the_tiny_text_encoder_is_compared_with_what_earlier_data_had(workplace: Path):
    made = LatentMetadata.read(workplace / "latents")
    made.check_encoder("text_encoder", TinyTextEncoder(dim=24, max_length=12).provenance)
    with pytest.raises(ValueError, match="window 3 instead of 6"):
        made.check_encoder("text_encoder", TinyTextEncoder(dim=24, max_length=12, window=6).provenance)
