"""The page of a run: charts of the right numbers, nothing from elsewhere, and runs that have nothing to show."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from micro_diffusion.evaluation.line_chart import line_chart, powers_of_ten, thinned, ticks
from micro_diffusion.evaluation.run_page import GRIDS, read_run, run_page


def trained(folder: Path, *, loss: float = 0.5, steps: int = 10) -> Path:
    """A run folder as a training leaves it, without weights."""
    (folder / "samples").mkdir(parents=True)
    (folder / "evaluations").mkdir()
    (folder / "config.yaml").write_text("{}\n")
    lines = [
        {"step": 10 * i, "loss/train/total": loss / (i + 1), "images/fid": 9.0 - i, "time/epoch": i}
        for i in range(steps)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 99, "lo')
    for i in range(steps):
        Image.new("RGB", (800, 8), (25 * i, 0, 0)).save(folder / "samples" / f"step_{10 * i:07d}.png")
    return folder


def evaluated(folder: Path, guidance: float, right: float) -> None:
    settings = {"guidance_scale": guidance, "steps": 18, "seed": 0}
    report = {"composition": {"single": right}, "settings": settings}
    (folder / "evaluations" / f"g{guidance}.json").write_text(json.dumps(report))


def test_a_chart_is_well_formed_and_places_its_points():
    chart = ElementTree.fromstring(line_chart("a < b", {"x & y": [(0, 1.0), (10, 3.0), (5, float("nan"))]}, best="low"))
    (line,) = chart.iter("polyline")
    first, last = (tuple(map(float, point.split(","))) for point in line.attrib["points"].split())
    assert first[0] < last[0] and first[1] > last[1]
    assert any(text.text == "best 1 at 0" for text in chart.iter("text"))
    with pytest.raises(ValueError, match="loss has no finite value"):
        line_chart("loss", {"a": [(0, float("inf"))]})


@pytest.mark.parametrize("values", [[0.0, 1.0], [3.0], [0.0], [-2e-7, 5e-7], [1e9, 3.3e9], [0.301, 0.309]])
def test_ticks_are_few_and_span_the_values(values: list[float]):
    found = ticks(values)
    assert 2 <= len(found) <= 8
    assert found[0] <= min(values) and max(values) <= found[-1]


def test_a_loss_that_explodes_hides_no_other():
    lines = {"good": [(0, 1.0), (10, 0.5)], "exploded": [(0, 1.0), (10, 1e11)]}
    lines_drawn = ElementTree.fromstring(line_chart("loss", lines)).findall(".//polyline")
    heights = [[float(point.split(",")[1]) for point in line.get("points", "").split()] for line in lines_drawn]
    assert heights[0][1] - heights[0][0] > 4 and heights[0][0] == heights[1][0] > heights[1][1]
    assert powers_of_ten([0.5, 1e11]) == [0.1, 100.0, 1e5, 1e8, 1e11]


def test_many_points_become_few_with_the_same_mean():
    points = [(float(i), float(i % 7)) for i in range(3000)]
    few = thinned(points)
    assert len(few) == 300
    assert sum(y for _, y in few) / 300 == pytest.approx(sum(y for _, y in points) / 3000)


def test_a_page_stands_alone_and_shows_losses_scores_sweeps_and_grids(tmp_path: Path):
    folder = trained(tmp_path / "mine")
    for guidance, right in ((1, 0.25), (3, 0.75), (5, 0.5)):
        evaluated(folder, guidance, right)
    page = run_page([read_run(folder)])
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert page.count("data:image/png;base64,") == GRIDS
    for said in ("loss/train/total", "images/fid", "best 0 at 90", "best 0.75 at 3", "step 0", "step 90", "time/epoch"):
        assert said in page
    assert page.index("loss/train/total") < page.index("<details>") < page.index("time/epoch")


def test_several_runs_share_their_charts(tmp_path: Path):
    runs = [read_run(trained(tmp_path / place / "mine", loss=loss)) for place, loss in (("a", 0.5), ("b", 0.7))]
    page = run_page(runs)
    assert "mine (1)" in page and "mine (2)" in page
    chart = page[page.index("loss/train/total") :].partition("</svg>")[0]
    assert chart.count("<polyline") == 2


def test_a_run_without_anything_to_show_and_a_damaged_evaluation(tmp_path: Path):
    with pytest.raises(ValueError, match=r"has no metrics\.jsonl, evaluations or samples to report"):
        read_run(tmp_path)
    folder = trained(tmp_path / "mine")
    (folder / "evaluations" / "a.json").write_text("[")
    with pytest.raises(ValueError, match=r"a\.json is no report of an evaluation"):
        read_run(folder)
