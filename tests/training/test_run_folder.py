import json

import pytest

from micro_diffusion.checkpoint import read_config
from micro_diffusion.training.run_folder import RunFolder, differing_keys

CONFIG = {
    "seed": 0,
    "model": {"ratio": 0.75, "bands": [1, 2]},
    "trainer": {"max_duration": "10ba"},
    "loggers": {},
    "train_loader": {},
}


def test_a_fresh_folder_is_neither_refused_nor_complete(tmp_path):
    run = RunFolder(tmp_path / "run", CONFIG)
    run.check()
    assert not run.is_complete
    run.begin()
    assert read_config(run.path) == CONFIG and not run.is_complete


def begin(folder, config):
    """A run that has got as far as a checkpoint."""
    RunFolder(folder, config).begin()
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "latest-rank0.pt").touch()


def test_a_run_that_failed_at_once_does_not_hold_its_folder(tmp_path):
    RunFolder(tmp_path, CONFIG).begin()
    RunFolder(tmp_path, CONFIG | {"seed": 1}).check()


def test_another_configuration_is_refused_and_the_difference_named(tmp_path):
    begin(tmp_path, CONFIG)
    other = CONFIG | {"seed": 1, "model": {"ratio": 0.5, "bands": [1, 2]}}
    with pytest.raises(
        ValueError, match=r"differs in seed=1 \(was 0\), model.ratio=0.5 \(was 0.75\); choose another exp_name"
    ):
        RunFolder(tmp_path, other).check()


def test_what_is_shown_and_how_it_runs_may_change(tmp_path):
    begin(tmp_path, CONFIG)
    moved = {"loggers": {"a": 1}, "trainer": {"max_duration": "20ba"}, "train_loader": {"workers": 3, "path": "a"}}
    RunFolder(tmp_path, CONFIG | moved | {"train_loader": {"workers": 3}}).check()
    with pytest.raises(ValueError, match=r"differs in train_loader\.path=a \(was None\)"):
        RunFolder(tmp_path, CONFIG | moved).check()


@pytest.mark.parametrize("load_path", ["other.pt", None])
def test_the_checkpoint_that_a_run_started_from_may_not_change(tmp_path, load_path):
    begin(tmp_path, CONFIG | {"trainer": {"max_duration": "10ba", "load_path": "first.pt"}})
    with pytest.raises(ValueError, match=rf"differs in trainer\.load_path={load_path} \(was first\.pt\)"):
        RunFolder(tmp_path, CONFIG | {"trainer": {"max_duration": "10ba", "load_path": load_path}}).check()


def test_complete_until_a_longer_training_is_asked_for(tmp_path):
    run = RunFolder(tmp_path, CONFIG)
    run.begin()
    run.finish(batches=10)
    assert run.is_complete
    assert json.loads((tmp_path / "complete.json").read_text()) == {"max_duration": "10ba", "batches": 10}
    assert not RunFolder(tmp_path, CONFIG | {"trainer": {"max_duration": "20ba"}}).is_complete


def test_differing_keys_are_dotted():
    assert differing_keys({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 5}) == ["a.c", "d", "e"]
    assert differing_keys(CONFIG, CONFIG) == []
