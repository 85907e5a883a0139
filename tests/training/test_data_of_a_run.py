"""The data that a run is trained on: which captions it draws, and what it says when they are not those of before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from micro_diffusion.data.sources.shapes import Shapes
from micro_diffusion.data.sources.source import CaptionedImage
from tests.small_training import losses, make_latents, train_here


@dataclass(frozen=True, kw_only=True)
class TwiceCaptioned(Shapes):
    """Shapes with a second caption, which leaves the background out."""

    def read(self, part: range) -> Iterator[CaptionedImage]:
        for item in super().read(part):
            yield item._replace(further_captions=(item.caption.partition(" on ")[0],))


def test_a_resumed_run_draws_the_captions_that_the_uninterrupted_one_draws(tmp_path, monkeypatch):
    make_latents(tmp_path, 24, TwiceCaptioned(seed=0, count=24, resolution=16))
    monkeypatch.syspath_prepend(tmp_path)
    short = ["trainer.max_duration=10ba", "train_loader.caption_probabilities=[0.4,0.6]"]
    told = ["+callbacks.kill._target_=killer.KillAt", "+callbacks.kill.step=7", "+callbacks.kill.name=SIGTERM"]
    train_here(tmp_path, "exp_name=whole", *short)
    with pytest.raises(SystemExit):
        train_here(tmp_path, "exp_name=resumed", *short, *told)
    train_here(tmp_path, "exp_name=resumed", *short)
    whole = losses(tmp_path / "runs" / "whole")
    assert sorted(whole) == list(range(10)) and losses(tmp_path / "runs" / "resumed") == whole
    train_here(tmp_path, "exp_name=first", *short[:1], "train_loader.caption_probabilities=[1]")
    assert losses(tmp_path / "runs" / "first") != whole


def test_other_data_at_the_same_path_are_refused_unless_accepted(tmp_path):
    make_latents(tmp_path, 8)
    train_here(tmp_path, "exp_name=mine", "trainer.max_duration=3ba")
    (tmp_path / "runs" / "mine" / "complete.json").unlink()
    train_here(tmp_path, "exp_name=mine", "trainer.max_duration=3ba")
    measured = (tmp_path / "runs" / "mine" / "metrics.jsonl").read_text()
    for folder in ("images", "latents"):
        shutil.rmtree(tmp_path / folder)
    make_latents(tmp_path, 24, Shapes(seed=99, count=24, resolution=16))
    longer = ["exp_name=mine", "trainer.max_duration=5ba"]
    with pytest.raises(
        ValueError, match=r"on other data \(8 samples of index \w{16}\) than train_loader\.path holds now \(24 samples"
    ):
        train_here(tmp_path, *longer, "accept_changes=[trainer.max_duration]")
    assert (tmp_path / "runs" / "mine" / "metrics.jsonl").read_text() == measured
    for _ in range(2):  # to the end, and there once more
        train_here(tmp_path, *longer, "accept_changes=[trainer.max_duration,train_loader.path]")
        (tmp_path / "runs" / "mine" / "complete.json").unlink()
    assert sorted(losses(tmp_path / "runs" / "mine")) == [0, 1, 2, 3, 4]
    noted = [json.loads(line) for line in (tmp_path / "runs" / "mine" / "changes.jsonl").read_text().splitlines()]
    (change,) = [line for line in noted if line["key"] == "data of train_loader.path"]
    assert change["step"] == 3 and change["before"].startswith("8 samples") and change["after"].startswith("24 samples")


def test_latents_of_another_encoder_are_refused(tmp_path):
    make_latents(tmp_path, 24)
    with pytest.raises(
        ValueError, match="another text_encoder made the data than the config has: max_length 18 instead of 20"
    ):
        train_here(tmp_path, "exp_name=other", "text_encoder.max_length=20")
