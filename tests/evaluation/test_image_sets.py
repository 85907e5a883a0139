"""Sets of generated images: resumed, shared, scored by the command line, and laid out for other evaluators."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from micro_diffusion import cli
from micro_diffusion.evaluation import devices
from micro_diffusion.evaluation.image_set import PART, begin, generate_missing, part_seed, read_set
from micro_diffusion.evaluation.layouts import DPG, GenEval, run_evaluator
from micro_diffusion.evaluation.prompt_files import coco_prompts, read_prompts
from tests.evaluation.test_reference import folder_of
from tests.run_folder import make_run

PROMPTS = [f"prompt {index}" for index in range(PART + 6)]


def coloured(captions, seed):
    """An image whose pixels tell caption and seed."""
    values = torch.tensor([[int(caption.split()[1]), seed % 256, len(captions)] for caption in captions])
    return values.to(torch.uint8)[:, :, None, None].expand(-1, 3, 4, 4)


def content(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("*.png"))]


def test_an_interrupted_set_goes_on_and_shares_make_the_same_images(tmp_path: Path):
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    for folder in (whole, parted):
        begin(folder, PROMPTS, {"seed": 3})
    assert generate_missing(whole, PROMPTS, coloured, seed=3) == len(PROMPTS)
    assert generate_missing(parted, PROMPTS, coloured, seed=3, share=(1, 2)) == 6
    assert generate_missing(parted, PROMPTS, coloured, seed=3, share=(0, 2)) == PART
    assert content(whole) == content(parted)
    assert len(content(whole)) == len(PROMPTS)
    (parted / "000005.png").unlink()
    assert generate_missing(parted, PROMPTS, coloured, seed=3) == 1
    assert content(whole) == content(parted)
    assert read_set(parted) == ([f"{i:06d}.png" for i in range(len(PROMPTS))], PROMPTS)
    assert part_seed(3, 0) == 3
    assert len({part_seed(seed, part) for seed in range(9) for part in range(9)}) == 81


def test_a_folder_of_other_prompts_or_settings_is_refused(tmp_path: Path):
    begin(tmp_path, PROMPTS, {"seed": 3})
    begin(tmp_path, PROMPTS, {"seed": 3})
    with pytest.raises(ValueError, match="holds images of other prompts; name another folder"):
        begin(tmp_path, PROMPTS[1:], {"seed": 3})
    with pytest.raises(ValueError, match=r"holds images of other settings \(seed 3, now 4\)"):
        begin(tmp_path, PROMPTS, {"seed": 4})


@pytest.mark.parametrize("line", ["no json", '{"prompt": "a"}', '{"file_name": "../a.png", "prompt": "a"}', "[]"])
def test_a_list_of_images_that_is_none(tmp_path: Path, line: str):
    (tmp_path / "prompts.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=r"line 1 of .*prompts\.jsonl names no image and prompt"):
        read_set(tmp_path)


def test_every_form_of_prompts(tmp_path: Path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "a.jsonl").write_text('{"prompt": "one", "tag": "x"}\n{"caption": "two"}\n')
    (tmp_path / "folder").mkdir()
    for name in ("one", "two"):
        (tmp_path / "folder" / f"{name}.txt").write_text(name)
    for name in ("a.txt", "a.jsonl", "folder"):
        assert read_prompts(tmp_path / name) == ["one", "two"]
    assert read_prompts(tmp_path / "a.txt", count=1) == ["one"]
    with pytest.raises(ValueError, match="has 2 prompts, fewer than 3"):
        read_prompts(tmp_path / "a.txt", count=3)
    (tmp_path / "a.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="line 1 of .* has no prompt"):
        read_prompts(tmp_path / "a.jsonl")
    with pytest.raises(FileNotFoundError, match="no file of prompts"):
        read_prompts(tmp_path / "b.txt")


def coco(path: Path, images: int = 9) -> Path:
    """Annotations of some images with two captions each, in no order."""
    annotations = [
        {"id": 10 * image + i, "image_id": image, "caption": f"{image} {'ab'[i]}\n"}
        for image in reversed(range(images))
        for i in range(2)
    ]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"annotations": annotations, "images": []}))
    return path


def test_prompts_of_coco_are_one_caption_each_of_random_images(tmp_path: Path):
    path = coco(tmp_path / "captions.json")
    chosen = coco_prompts(path, count=6, seed=0)
    assert chosen == coco_prompts(path, count=6, seed=0) != coco_prompts(path, count=6, seed=1)
    assert len({prompt.split()[0] for prompt in chosen}) == 6
    assert {prompt.split()[1] for prompt in chosen} == {"a", "b"}
    with pytest.raises(ValueError, match="captions of 9 images, fewer than 10"):
        coco_prompts(path, count=10, seed=0)
    path.write_text("[]")
    with pytest.raises(ValueError, match="holds no captions of COCO"):
        coco_prompts(path, count=1, seed=0)


def four_of_each(folder: Path, prompts: int) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{index}.png" for index in range(4 * prompts)]
    for index, path in enumerate(paths):
        Image.new("RGB", (2, 2), (index, 0, 0)).save(path)
    return paths


def geneval_prompts(path: Path) -> Path:
    lines = [{"tag": "colors", "prompt": "a red cow"}, {"tag": "counting", "prompt": "two cows"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def geneval_checkout(folder: Path) -> Path:
    """Stands for GenEval's repository: takes its options, reads its layout, writes its results."""
    (folder / "evaluation").mkdir(parents=True)
    (folder / "evaluation" / "evaluate_images.py").write_text(
        "import argparse, json, pathlib\n"
        "parser = argparse.ArgumentParser()\n"
        "parser.add_argument('imagedir'); parser.add_argument('--outfile'); parser.add_argument('--model-path')\n"
        "args = parser.parse_args()\n"
        "lines = []\n"
        "for folder in sorted(pathlib.Path(args.imagedir).iterdir()):\n"
        "    said = json.loads((folder / 'metadata.jsonl').read_text())\n"
        "    for image in sorted((folder / 'samples').iterdir()):\n"
        "        right = said['tag'] == 'colors' or image.name == '0001.png'\n"
        "        lines.append(json.dumps({'filename': str(image), 'tag': said['tag'], 'correct': right}))\n"
        "pathlib.Path(args.outfile).write_text('\\n'.join(lines))\n"
    )
    return folder


def test_geneval_in_its_layout_and_back(tmp_path: Path):
    benchmark = GenEval(geneval_prompts(tmp_path / "evaluation_metadata.jsonl"))
    layout, results = tmp_path / "layout", tmp_path / "results.jsonl"
    benchmark.write(four_of_each(tmp_path / "flat", 2), layout)
    assert json.loads((layout / "00001" / "metadata.jsonl").read_text())["tag"] == "counting"
    assert Image.open(layout / "00001" / "samples" / "0002.png").getpixel((0, 0)) == (6, 0, 0)
    with pytest.raises(
        FileNotFoundError, match=r"no evaluation/evaluate_images\.py in .*; give --evaluator a checkout"
    ):
        run_evaluator(benchmark, tmp_path, layout, results)
    checkout = geneval_checkout(tmp_path / "geneval")
    run_evaluator(benchmark, checkout, layout, results)
    assert benchmark.read(results) == {"colors": 1.0, "counting": 0.25, "overall": 0.625}
    (checkout / "evaluation" / "evaluate_images.py").write_text("raise SystemExit('no detector')")
    with pytest.raises(ChildProcessError, match=r"evaluate_images\.py ended with 1 \(no detector\)"):
        run_evaluator(benchmark, checkout, layout, results)
    results.write_text("{}\n")
    with pytest.raises(ValueError, match="holds no results of GenEval"):
        benchmark.read(results)


DPG_RESULTS = """a.png, (0, 0, 2, 2), 0.5
Model: x
L1 category scores:
\tentity: 80.5
\tglobal: 78.25
L2 category scores:
\tattribute - color: 85.6
Image path: dpg
Save results to: dpg_results.txt
DPG-Bench score: 69.442
"""


def dpg_prompts(folder: Path) -> Path:
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.txt").write_text(f"a long prompt {name}")
    return folder


def test_dpg_in_its_layout_and_back(tmp_path: Path):
    benchmark = DPG(dpg_prompts(tmp_path / "prompts"))
    layout, results = tmp_path / "layout", tmp_path / "results.txt"
    benchmark.write(four_of_each(tmp_path / "flat", 2), layout)
    grid = Image.open(layout / "b.png")
    assert grid.size == (4, 4)
    assert [grid.getpixel(place) for place in ((0, 0), (3, 0), (0, 3), (3, 3))] == [(i, 0, 0) for i in (4, 5, 6, 7)]
    results.write_text(DPG_RESULTS)
    assert benchmark.read(results) == {"entity": 80.5, "global": 78.25, "overall": 69.442}
    results.write_text("nothing")
    with pytest.raises(ValueError, match="holds no scores of DPG-Bench"):
        benchmark.read(results)
    with pytest.raises(ValueError, match="is no folder; give DPG-Bench's folder"):
        DPG(results)


def test_every_device_gets_a_share_and_a_failure_stops_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script = (
        "import pathlib, sys; folder, _, device, _, share = sys.argv[1:]; "
        "pathlib.Path(folder, device).write_text(share); sys.exit(device == 'bad')"
    )
    monkeypatch.setattr(devices, "_program", lambda: [sys.executable, "-c", script])
    devices.on_devices([str(tmp_path)], ["cuda:0", "cuda:1"])
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"cuda:0": "0/2", "cuda:1": "1/2"}
    with pytest.raises(ChildProcessError, match="the process on bad ended with 1"):
        devices.on_devices([str(tmp_path)], ["good", "bad"])


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "trained_models" / "first", ema=1)
    folder_of(tmp_path / "real", count=6)
    (tmp_path / "prompts.txt").write_text("".join(f"a large red star {i}\n" for i in range(6)))
    return tmp_path


GIVEN = ["--prompts", "prompts.txt", "--out-images", "images", "--steps", "1", "--out", "scores.json"]
SCORED = ["--reference", "real", "--features", "random_conv", "--size", "16", "--statistics", "cache"]


def test_evaluate_generates_a_folder_and_score_finds_the_same(workplace: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["evaluate", "first", *GIVEN, *SCORED, "--metrics", "fid,kid,precision_recall"]) == 0
    report = json.loads(Path("scores.json").read_text())
    names = ("fid", "kid", "kid_std", "kid_subset_size", "precision", "recall")
    assert set(report["scores"]) == {f"{name}_random_conv" for name in names}
    assert report["images"] == 6 and report["reference_images"] == {"random_conv": 6}
    assert report["preparation"] == "centre square, lanczos to 16" and report["settings"]["steps"] == 1
    before = Path("images/000000.png").stat().st_mtime_ns
    assert cli.main(["evaluate", "first", *GIVEN, *SCORED]) == 0
    assert Path("images/000000.png").stat().st_mtime_ns == before
    assert cli.main(["score", "images", *SCORED, "--out", "again.json"]) == 0
    again = json.loads(Path("again.json").read_text())["scores"]
    assert again == {"fid_random_conv": pytest.approx(report["scores"]["fid_random_conv"])}
    assert cli.main(["score", "real", *SCORED, "--out", "same.json"]) == 0
    assert json.loads(Path("same.json").read_text())["scores"]["fid_random_conv"] == pytest.approx(0, abs=1e-6)
    Path("images/000003.png").unlink()
    capsys.readouterr()
    assert cli.main(["score", "images", *SCORED, "--out", "again.json"]) == 2
    assert "1 of 6 images are missing from images, the first is 000003.png" in capsys.readouterr().err
    assert cli.main(["evaluate", "first", *GIVEN, *SCORED, "--share", "0/2"]) == 0
    assert Path("images/000003.png").is_file()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--reference", "real", "--out", "a.json"], "--reference has no effect without --prompts"),
        (["--prompts", "prompts.txt", "--out", "a.json"], "--prompts needs a folder for the images; give --out-images"),
        ([*GIVEN, "--grid", "a.png"], "--grid has no effect with --prompts"),
        ([*GIVEN, *SCORED, "--share", "2/2"], "--share 2/2 is none of K/N"),
        ([*GIVEN, *SCORED, "--metrics", "is"], "choose some of fid, kid"),
        ([*GIVEN, "--reference", "real"], "there is no weights-inception-2015"),
        ([*GIVEN, *SCORED, "--protocol", "x"], "there is no protocol x in"),
        ([*GIVEN, "--evaluator", "x"], "--evaluator has no effect without --benchmark"),
    ],
)
def test_bad_options(workplace: Path, capsys: pytest.CaptureFixture[str], options: list[str], problem: str):
    assert cli.main(["evaluate", "first", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line
    assert not Path("images").exists()


@pytest.mark.slow
def test_shares_of_two_processes_make_the_set_of_one(workplace: Path):
    command = [sys.executable, "-m", "micro_diffusion.cli", "evaluate", "first", *GIVEN, *SCORED]
    both = [subprocess.Popen([*command, "--share", f"{share}/2"]) for share in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert cli.main(["evaluate", "first", *GIVEN, *SCORED]) == 0
    assert len(list(Path("images").glob("*.png"))) == 6
