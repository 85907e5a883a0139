"""The benchmark script measures, counts, and writes the keys that its readers look for."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from micro_diffusion.performance.timing import measure
from tests.run_folder import make_run

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "benchmark.py"
SMALL = ["backbone.depth=2", "backbone.mixer_depth=1", "text_encoder.max_length=7"]


def module():
    """The script, imported."""
    spec = importlib.util.spec_from_file_location("benchmark", SCRIPT)
    imported = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(imported)
    return imported


def benchmark(*arguments):
    return module().main([*map(str, arguments), "--repeats", "2", "--warmup", "0", "--device", "cpu"])


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """One row of each kind, by its name."""
    file = tmp_path_factory.mktemp("results") / "new" / "results.json"
    small = ["--resolution", 64, "--batch-size", 2, "--steps", 2, "--samples", 12, "--dtype", "fp32", *SMALL]
    assert benchmark("all", *small, "--json", file) == json.loads(file.read_text())
    return {row["what"]: row for row in json.loads(file.read_text())}


def test_every_command_gives_its_figures(rows):
    assert rows.keys() == {"train", "sample", "loader", "precompute"}
    for what in rows:
        assert rows[what]["images_per_second"] > 0 and rows[what]["peak_memory_bytes"] > 10_000_000
    assert rows["train"]["seconds_per_step"] * rows["train"]["images_per_second"] == pytest.approx(2)
    assert all(rows[what]["spread"] >= 0 for what in rows)
    for what in ("sample", "loader", "precompute"):
        assert rows[what]["seconds_per_image"] * rows[what]["images_per_second"] == pytest.approx(1)
    for what in ("train", "sample"):
        row = rows[what]
        assert row["mfu"] == pytest.approx(row["flops_per_second"] / row["machine_flops_per_second"])
        assert 0 < row["mfu"] < 1


def test_loading_is_measured_beside_bare_reading(rows):
    row = rows["loader"]
    caption, latents = 2 * 77 * 1024, 2 * 4 * (32**2 + 64**2)
    assert 0 < row["bytes_per_sample"] - caption - latents < 1000
    assert 0 < row["compact_bytes_per_sample"] - 20 * (1024 + 4) - latents / 2 < 1000
    assert row["images_per_second"] == row["samples_per_second"]
    for form in ("", "compact_"):
        assert 0 < row[f"{form}samples_per_second"] < row[f"{form}raw_read_samples_per_second"]


def test_a_profile_shares_the_time_among_operators():
    row = benchmark("profile", "--resolution", 32, "--batch-size", 1, *SMALL)[0]
    shares = list(row.values())[list(row).index("date") + 1 :]
    assert sum(shares) == pytest.approx(1) and row["aten::mm"] > 0.05


def test_every_way_of_attention_is_timed_and_an_option_without_effect_is_said():
    with pytest.warns(UserWarning, match="--resolution 512: no effect on attention; leave it out"):
        row = benchmark("attention", "--batch-size", 1, "--dtype", "fp32", "--resolution", 512)[0]
    seconds = {key: value for key, value in row.items() if key.startswith("seconds")}
    assert len(seconds) == 4 * 3 and min(seconds.values()) > 0


def test_a_server_answers_many_at_once(tmp_path):
    run = make_run(tmp_path / "run")
    row = benchmark("serve", "--run", run, "--clients", 6, "--batch-size", 4, "--steps", 2, "--dtype", "fp32")[0]
    assert row["times_faster"] == pytest.approx(row["images_per_second"] / row["one_by_one_images_per_second"])
    assert 1 < row["images_per_batch"] <= 4


def test_results_do_not_litter(rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    benchmark("sample", "--resolution", 32, "--batch-size", 1, "--steps", 1, "--dtype", "fp32", *SMALL)
    assert list(tmp_path.iterdir()) == []


def flops(**options):
    flags = [text for key, value in options.items() for text in (f"--{key.replace('_', '-')}", value)]
    small = ["--resolution", 32, "--batch-size", 1, "--dtype", "fp32", *SMALL]
    row = benchmark("sample", *small, *[f for f in flags if f is not True])[0]
    return row["flops_per_image"]


def test_options_change_the_counted_work():
    heun = flops(steps=3)
    assert flops(steps=3, sampler="dpmpp_2m") < 0.7 * heun  # three network calls instead of five
    assert flops(steps=3, guidance=1) < 0.7 * heun
    assert flops(steps=3, unprepared=True) > heun


def test_the_median_leaves_out_the_first_and_the_warm_up():
    calls = []
    timing = measure(lambda: calls.append(None), warmup=3, repeats=4, device=torch.device("cpu"))
    assert len(calls) == 8
    assert timing.first > 0 and timing.seconds > 0 and timing.spread is not None and timing.spread >= 0
    with pytest.raises(ValueError, match="0 repetitions"):
        measure(lambda: None, warmup=0, repeats=0, device=torch.device("cpu"))


def test_one_repetition_has_no_spread():
    assert measure(lambda: None, warmup=0, repeats=1, device=torch.device("cpu")).spread is None


def test_the_clock_of_a_processor_is_not_for_a_gpu():
    with pytest.raises(ValueError, match="--clock process does not see the work of meta"):
        module().main(["train", "--clock", "process", "--device", "meta"])


def test_an_unknown_key_is_refused():
    with pytest.raises(Exception, match="nonsense"):
        benchmark("sample", "backbone.nonsense=1")
