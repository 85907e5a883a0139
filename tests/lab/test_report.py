"""Results as lines of JSON, and the page that is made of them."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from micro_diffusion.lab.comparison import mean
from micro_diffusion.lab.report import MARKS, by_experiment, comparisons, loss_at, write_between_marks, write_report
from micro_diffusion.lab.results import Point, Result, append, curve_of, read
from micro_diffusion.lab.words import signed

HEAD = """# @package _global_
# Changes:    model.train_mask_ratio
# Hypothesis: a
# Reference:  b
# Command:    c
# Expect:     d
# Result:     not run yet
"""


def result(experiment="base", seed=1, loss=0.3, parent=None, speed=1.0, **changes) -> Result:
    curve = tuple(
        Point(images=100 * i, flops=i * 5e11, wall=9 * i / speed, processor=6 * i / speed, loss=loss + (2 - i) * 0.1)
        for i in (1, 2)
    )
    made = Result(
        experiment=experiment, parent=parent, seed=seed, budget=1e12, key=f"{experiment}{seed}", commit="abc",
        date="2026-01-02 10:00", machine="one", error=None, steps=20, batch=10, image_flops=5e9, update_flops=0,
        parameters=7, curve=curve, scores={"single": 0.5, "two": 0.25, "held_out": 0.0}, config={"seed": seed},
    )  # fmt: skip
    return replace(made, **changes)


OURS, THEIRS = (0.20, 0.22, 0.21), (0.30, 0.31, 0.33)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/base.yaml").write_text(HEAD.replace("# Changes:    model.train_mask_ratio\n", ""))
    (tmp_path / "experiment/mask.yaml").write_text(HEAD + "defaults: [base, _self_]\n")
    (tmp_path / "lab.md").write_text(f"# Lab\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    for seed, (ours, theirs) in enumerate(zip(OURS, THEIRS, strict=True), start=1):
        append(tmp_path / "results.jsonl", result("base", seed, theirs))
        append(tmp_path / "results.jsonl", result("mask", seed, ours, "base", speed=0.5))
    append(tmp_path / "results.jsonl", result("mask", 4, error="ended with status 1: no room", curve=(), parent="base"))
    return tmp_path


def test_the_page_has_tables_curves_and_failures(place: Path):
    write_report(place / "results.jsonl", place / "lab.md", place / "experiment")
    page = (place / "lab.md").read_text()
    assert page.startswith("# Lab\n") and page.endswith("after\n") and "old" not in page
    row = next(line for line in page.splitlines() if line.startswith("| mask "))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    welch = stats.ttest_ind(OURS, THEIRS, equal_var=False).pvalue
    assert cells[1:6] == ["3", "200", "24 s", "0.2100 ± 0.0058", "base"]
    assert cells[6].startswith("-0.1033 ± ") and cells[7] == f"{welch:.3f}" and cells[9] == "better"
    assert cells[10].startswith("-0.0033")  # half as fast, so at the end of base's 12 s it stands where base began
    assert cells[12:] == ["0.50 ± 0.00", "0.25 ± 0.00", "0.00 ± 0.00"]
    assert "Runs: 7, of which failed: 1." in page and "mask, seed 4, 1 TFLOP: ended with status 1: no room" in page
    assert (place / "images/lab_shapes_1_model.png").stat().st_size > 1000 and "images/lab_shapes_1_model.png" in page
    told = (place / "experiment/mask.yaml").read_text()
    assert "# Result:     shapes, 2026-01-02, 1 TFLOP, 3 seeds: loss 0.2100 ± 0.0058, -0.1033" in told
    assert told.replace("2026", "").count("Result") == 1 and told.endswith("defaults: [base, _self_]\n")


def test_another_page_leaves_the_heads_and_has_images_of_its_own(place: Path):
    before = (place / "experiment/mask.yaml").read_text()
    (place / "other.md").write_text("\n".join(MARKS))
    write_report(place / "results.jsonl", place / "other.md", place / "experiment", heads=False)
    assert (place / "experiment/mask.yaml").read_text() == before
    assert [path.name for path in (place / "images").iterdir()] == ["other_shapes_1_model.png"]


def test_a_head_says_the_result_of_every_budget(place: Path):
    for name, loss, parent in (("base", 0.2, None), ("mask", 0.25, "base")):
        append(place / "results.jsonl", result(name, 1, loss, parent, key=f"{name}, longer", budget=4e12))
    for _ in range(2):
        write_report(place / "results.jsonl", place / "lab.md", place / "experiment")
    head, said = (place / "experiment/mask.yaml").read_text().split("# Result:     ")
    lines = said.splitlines()
    assert head.endswith("# Expect:     d\n") and len(lines) == 3 and lines[2] == "defaults: [base, _self_]"
    assert lines[0].startswith("shapes, 2026-01-02, 1 TFLOP, 3 seeds: loss 0.2100 ± 0.0058, -0.1033")
    assert lines[1] == "#             shapes, 2026-01-02, 4 TFLOP, 1 seed: loss 0.2500, +0.0500: too few seeds"


def test_making_the_page_again_changes_nothing(place: Path):
    write_report(place / "results.jsonl", place / "lab.md", place / "experiment")
    first = (place / "lab.md").read_text()
    write_report(place / "results.jsonl", place / "lab.md", place / "experiment")
    assert (place / "lab.md").read_text() == first


def test_a_page_without_marks_is_refused(tmp_path: Path):
    (tmp_path / "lab.md").write_text("text")
    with pytest.raises(ValueError, match="lacks the marks"):
        write_between_marks(tmp_path / "lab.md", "new")
    with pytest.raises(ValueError, match="there are no results"):
        write_report(tmp_path / "none.jsonl", tmp_path / "lab.md", tmp_path)


def test_losses_between_evaluations():
    curve = result(loss=0.3).curve
    at = {place: loss_at(curve, place, lambda point: point.images) for place in (50, 100, 200**0.5 * 10, 200, 300)}
    assert list(at.values()) == pytest.approx([math.nan, 0.4, (0.4 * 0.3) ** 0.5, 0.3, 0.3], nan_ok=True)
    assert math.isnan(mean([*at.values()]).value)


def test_runs_that_do_not_compare_are_refused(place: Path):
    append(place / "results.jsonl", result("base", 4, ground="other"))
    with pytest.raises(ValueError, match=r"do not compare: base or the overrides were others; keep the earlier ones"):
        write_report(place / "results.jsonl", place / "lab.md", place / "experiment")
    changed = [result("base", 1), result("base", 1, key="changed")]
    with pytest.raises(ValueError, match="base, seed 1, of .* is not as that of"):
        by_experiment(changed)
    assert by_experiment([result(loss=0.4), result(loss=0.2)])["base"][1].last.loss == 0.2


def test_results_are_read_as_they_were_written(tmp_path: Path):
    path = tmp_path / "results.jsonl"
    failed, again, other = result(error="why"), result(loss=0.2), result("mask")
    for one in (failed, other, again):
        append(path, one)
    with path.open("a") as file:
        file.write('{"experiment": "cut')
    assert read(path) == [failed, other, again]
    append(path, result("next"))
    assert read(path) == [failed, other, again, result("next")]
    assert read(tmp_path / "none.jsonl") == []
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(ValueError, match=r"line 1 of .* is no result"):
        read(path)


def test_a_curve_is_made_of_a_run_s_metrics(tmp_path: Path):
    lines = [
        {"step": None, "a": 1},
        {"step": 5, "clock/wall": 2.0, "clock/processor": 1.0},
        {"step": 5, "metrics/eval/loss": 0.5, "metrics/eval/loss_sigma_0-0.2": "nan"},
        {"step": 6, "loss/train/total": 0.4},
        {"step": 9, "clock/wall": 4.0, "clock/processor": 2.0, "metrics/eval/loss": 0.25},
        {"step": 9, "images/single": 0.75},
    ]
    cut = '{"step": 10, "metri'
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + cut)
    curve, scores = curve_of(tmp_path / "metrics.jsonl", batch=8, step_flops=10.0)
    assert [(p.images, p.flops, p.wall, p.processor, p.loss) for p in curve] == [
        (40, 50, 2, 1, 0.5),
        (72, 90, 4, 2, 0.25),
    ]
    assert scores == {"single": 0.75}


def test_benches_have_tables_of_their_own_and_heads_tell_of_shapes(place: Path):
    for seed, loss in enumerate(OURS, start=1):
        scores = {"fid_random_conv": 12.5, "copied": 0.25}
        for name, parent in (("base", None), ("mask", "base")):
            made = result(name, seed, loss + 0.5, parent, bench="emoji", key=f"emoji{name}{seed}", scores=scores)
            append(place / "results.jsonl", made)
    write_report(place / "results.jsonl", place / "lab.md", place / "experiment")
    emoji, shapes = (place / "lab.md").read_text().partition("### emoji, 1 TFLOP")[2].split("### shapes, 1 TFLOP")
    assert "| fid random conv | copied |" in emoji and "| 12.50 ± 0.00 | 0.25 ± 0.00 |" in emoji
    assert "| single | two | held out |" in shapes and "0.7" in emoji and "0.2100" in shapes
    assert "loss 0.2100" in (place / "experiment/mask.yaml").read_text()


def test_seconds_of_another_day_are_not_compared():
    theirs = {seed: result("base", seed, loss) for seed, loss in enumerate(THEIRS, start=1)}
    dates = ["2026-01-02 10:59", "2026-01-02 11:01", "2026-01-03 10:00"]
    ours = {
        seed: result("mask", seed, loss, "base", date=date)
        for seed, (loss, date) in enumerate(zip(OURS, dates, strict=True), start=1)
    }
    (row,) = comparisons({"base": theirs, "mask": ours})
    assert (row.flops.of.count, row.images.of.count, row.seconds.of.count) == (3, 3, 1)
    assert row.seconds.of.value == pytest.approx(OURS[0] - THEIRS[0])
    (row,) = comparisons({"base": theirs, "mask": {3: ours[3]}})
    assert signed(row.seconds) == "" and signed(row.flops) != ""
