"""What stages will write, and whether the disk holds it."""

import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from micro_diffusion.doctor.disk import Outlay, check_disk, outlays_of
from micro_diffusion.doctor.finding import Doubt
from micro_diffusion.training.config_checks.resolvers import register_resolvers

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
STAGE = "quickstart_32_pretrain"


def outlays(name: str, *changes: str, parameters: int = 10**6) -> list[Outlay]:
    register_resolvers()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return outlays_of(compose(STAGE, overrides=[f"exp_name={name}", *changes]), parameters)


def kept(name: str, *changes: str) -> int:
    return sum(outlay.kept for outlay in outlays(name, *changes))


def test_what_a_run_writes_follows_from_the_plan():
    """Per parameter: 16 bytes a checkpoint with the average and 8 of weights; 12 and 4 without it."""
    weights, checkpoints = outlays("a")
    assert (weights.folder, weights.kept, weights.unfinished) == (Path("trained_models/a"), 8_000_000, 0)
    assert checkpoints.folder == weights.folder / "checkpoints"
    assert checkpoints.kept == checkpoints.unfinished == 16_000_000
    assert kept("a", "algorithms.ema=null") == kept("a", "~algorithms.ema") == 16_000_000
    assert kept("a", "trainer.save_folder=null", "trainer.autoresume=false") == 8_000_000
    assert outlays("a", "trainer.save_folder=elsewhere")[1].folder == Path("elsewhere")
    every = ["trainer.save_num_checkpoints_to_keep=-1", "trainer.max_duration=1000ba", "trainer.save_interval=300ba"]
    assert kept("a", *every) == (4 * 16 + 8) * 10**6
    assert kept("a", *every[:2], "trainer.save_interval=0.1dur") == (10 * 16 + 8) * 10**6


def test_the_disk_holds_all_stages_less_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=75 * 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    place = f"output_dir={tmp_path}"
    first, second, third = (outlays(name, place) for name in "abc")
    assert "0.06 GB needed" in check_disk(first + second)  # each 24 MB, and 16 for the checkpoint being written
    with pytest.raises(OSError, match=r"checkpoints and weights need 0\.1 GB"):
        check_disk(first + second + third)
    (tmp_path / "a" / "checkpoints").mkdir(parents=True)
    (tmp_path / "a" / "checkpoints" / "ep0-ba4-rank0.pt").write_bytes(bytes(16 * 10**6))
    assert "0.07 GB needed" in check_disk(first + second + third)
    second[0].run.finish()
    assert "0.05 GB needed" in check_disk(first + second + third)
    longer = outlays("b", place, "trainer.max_duration=100000ba")
    assert "0.07 GB needed" in check_disk(first + longer + third)


def test_a_number_of_checkpoints_that_is_not_known_is_a_warning(tmp_path: Path):
    units = ["trainer.save_interval=10ba", "trainer.max_duration=1000ep"]
    changes = [f"output_dir={tmp_path}", "trainer.save_num_checkpoints_to_keep=-1", *units]
    with pytest.raises(Doubt, match="how many 1000ep leave with one every 10ba is not known"):
        check_disk(outlays("a", *changes, parameters=10))
