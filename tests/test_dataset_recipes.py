"""The recipes of the public data sets: what they would download, and that their commands are commands of this project.

Programs that reach the network are replaced by ones that write down how they were called.
"""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from micro_diffusion.training.config_checks.schema import validate_command

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted(path for path in (ROOT / "scripts" / "datasets").glob("*.sh") if path.name != "recipe.sh")
PROGRAMS = ("hf", "wget", "unzip", "img2dataset", "python", "composer")
STUB = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
if os.environ.get("FAILS") == os.path.basename(sys.argv[0]):
    sys.exit(1)
if "--output-document" in sys.argv:
    open(sys.argv[sys.argv.index("--output-document") + 1], "w").close()
"""


def run(
    tmp_path: Path, recipe: str, *arguments: str, fails: str = ""
) -> tuple[subprocess.CompletedProcess, list[list[str]]]:
    """The recipe's end, and the calls it has made."""
    programs, calls = tmp_path / "programs", tmp_path / "calls"
    programs.mkdir(exist_ok=True)
    calls.unlink(missing_ok=True)
    for name in PROGRAMS:
        (programs / name).write_text(STUB)
        (programs / name).chmod(stat.S_IRWXU)
    environment = {**os.environ, "PATH": f"{programs}:/usr/bin:/bin", "CALLS": str(calls), "FAILS": fails}
    command = ["bash", str(ROOT / "scripts" / "datasets" / f"{recipe}.sh"), *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    return done, [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []


def made(tmp_path: Path, recipe: str, *arguments: str) -> list[list[str]]:
    """The calls of a recipe that ends well, but for the last two, which prepare the data."""
    done, calls = run(tmp_path, recipe, "here", *arguments)
    assert done.returncode == 0, done.stderr
    convert, precompute = calls[-2:]
    for call, name in ((convert, "convert"), (precompute, "precompute")):
        assert call[:2] == ["python", str(ROOT / "scripts" / f"{name}.py")]
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            config = compose(name, overrides=call[2:])
        validate_command(config)
        assert config.out == str(tmp_path / "here" / ("images" if name == "convert" else "latents"))
        if name == "convert":
            assert config.source.path.startswith(str(tmp_path / "here" / "raw"))
            assert (config.preparation.minimum_side, config.preparation.shorter_side) == (256, 512)
        else:
            assert config.images == str(tmp_path / "here" / "images")
            assert list(config.resolutions) == [256, 512]
    return calls[:-2]


def hub(repository: str, raw: Path, *what: str) -> list[str]:
    return ["hf", "download", repository, *what, "--repo-type", "dataset", "--local-dir", str(raw)]


@pytest.mark.parametrize(("size", "count"), [("small", 2), ("all", 200)])
def test_journeydb(tmp_path, size, count):
    (call,) = made(tmp_path, "journeydb", size)
    names = [f"data/train/imgs/{number:03}.tgz" for number in range(count)]
    prompts = "data/train/train_anno_realease_repath.jsonl.tgz"
    assert call == hub("JourneyDB/JourneyDB", tmp_path / "here" / "raw", prompts, *names)


@pytest.mark.parametrize(("size", "count"), [("small", 2), ("all", 101)])
def test_sa1b(tmp_path, size, count):
    raw = tmp_path / "here" / "raw"
    raw.mkdir(parents=True)
    lines = [f"sa_{number:06}.tar\thttps://cdn/{number}?a=b&c=d" for number in reversed(range(101))]
    (raw / "links.txt").write_bytes("\r\n".join(["file_name\tcdn_link", *lines, ""]).encode())
    (raw / "sa_000001.tar").write_bytes(b"here already")
    captions, *links = made(tmp_path, "sa1b", size)
    assert captions == hub("PixArt-alpha/SAM-LLaVA-Captions10M", raw, "SA1B_caption.tar.gz")
    assert [link[-1] for link in links] == [f"https://cdn/{number}?a=b&c=d" for number in range(count) if number != 1]
    assert {path.name for path in raw.glob("*.tar")} == {f"sa_{number:06}.tar" for number in range(count)}


def test_sa1b_without_its_list(tmp_path):
    done, calls = run(tmp_path, "sa1b", "here")
    assert done.returncode == 1
    assert "links.txt; get it from https://ai.meta.com/datasets/segment-anything-downloads" in done.stderr
    assert calls == []


def test_diffusiondb(tmp_path):
    raw = tmp_path / "here" / "raw"
    metadata = hub("poloclub/diffusiondb", raw, "metadata-large.parquet")
    names = [f"diffusiondb-large-part-1/part-{number:06}.zip" for number in range(1, 141)]
    assert made(tmp_path, "diffusiondb", "small") == [metadata, hub("poloclub/diffusiondb", raw, *names)]
    pattern = "diffusiondb-large-part-*/part-*.zip"
    assert made(tmp_path, "diffusiondb") == [metadata, hub("poloclub/diffusiondb", raw, "--include", pattern)]


def test_cc12m(tmp_path):
    raw = tmp_path / "here" / "raw"
    names = [f"cc12m-train-{number:04}.tar" for number in range(22)]
    assert made(tmp_path, "cc12m", "small") == [hub("pixparse/cc12m-wds", raw, *names)]
    assert made(tmp_path, "cc12m", "all") == [hub("pixparse/cc12m-wds", raw, "--include", "cc12m-train-*.tar")]


def test_cc12m_from_the_publishers_table(tmp_path):
    raw = tmp_path / "here" / "raw"
    raw.mkdir(parents=True)
    (raw / "cc12m.tsv").write_text("http://a/b.jpg\tone\n" * 124_300)
    (call,) = made(tmp_path, "cc12m", "small")
    assert call[0] == "img2dataset"
    options = dict(zip(call[1::2], call[2::2], strict=True))
    assert (options["--output_format"], options["--caption_col"]) == ("webdataset", "caption")
    lines = Path(options["--url_list"]).read_text().splitlines()
    assert lines[:2] == ["url\tcaption", "http://a/b.jpg\tone"]
    assert len(lines) == 1 + 124_234


def test_urls(tmp_path):
    check, again, download, count = made(tmp_path, "urls", "small", "table=here.csv", "caption=TEXT")
    raw, links = tmp_path / "here" / "raw", str(ROOT / "scripts" / "datasets" / "links.py")
    assert check == ["python", links, "check", "here.csv", "url", "TEXT", "small", str(raw / "links.csv")]
    assert again[2:] == ["again", str(raw / "webdataset")] and count[2:] == ["count", str(raw / "webdataset")]
    options = dict(zip(download[1::2], download[2::2], strict=True))
    assert download[0] == "img2dataset" and options["--url_list"] == str(raw / "links.csv")
    assert (options["--output_folder"], options["--incremental_mode"]) == (str(raw / "webdataset"), "incremental")


def test_urls_without_a_table(tmp_path):
    done, calls = run(tmp_path, "urls", "here")
    assert done.returncode == 2 and calls == []
    assert "no table is given; add table=LINKS.csv" in done.stderr


def test_textcaps(tmp_path):
    raw = tmp_path / "here" / "raw"
    assert made(tmp_path, "textcaps", "small") == [hub("lmms-lab/TextCaps", raw, "data/train-00000-of-00013.parquet")]
    *fetched, unzip = made(tmp_path, "textcaps", "all")
    assert [Path(call[-1]).name for call in fetched] == ["TextCaps_0.1_train.json", "train_val_images.zip"]
    assert unzip == ["unzip", "-q", "-o", str(raw / "train_val_images.zip"), "-d", str(raw)]


def test_coco(tmp_path):
    first, second, *unzips = made(tmp_path, "coco", "small")
    assert [call[0] for call in unzips] == ["unzip", "unzip"]
    assert first[-1].endswith("annotations_trainval2014.zip") and second[-1].endswith("val2014.zip")
    assert [call[0] for call in made(tmp_path, "coco", "small")] == [
        "unzip",
        "unzip",
    ]  # what is whole is not fetched again


def test_options_and_launcher_reach_precompute(tmp_path, monkeypatch):
    monkeypatch.setenv("LAUNCHER", "composer -n 8")
    _, calls = run(tmp_path, "journeydb", "here", "small", "batch_size=8")
    assert "batch_size=8" in calls[-1] and "batch_size=8" not in calls[-2]
    assert calls[-1][:4] == ["composer", "-n", "8", str(ROOT / "scripts" / "precompute.py")]


def test_options_of_sources_preparation_and_engine_reach_convert(tmp_path):
    options = ["source.captions=5", "preparation.split=train", "engine=processes", "+engine.count=2"]
    made(tmp_path, "textcaps", "small", options[0])
    _, calls = run(tmp_path, "textcaps", "here", "small", "seed=1", *options)
    assert calls[-2][-4:] == options and calls[-1][-1] == "seed=1"


@pytest.mark.parametrize("fails", ["hf", "python"])
def test_a_recipe_stops_where_something_fails(tmp_path, fails):
    done, calls = run(tmp_path, "journeydb", "here", "small", fails=fails)
    assert done.returncode == 1
    assert [call[0] for call in calls] == (["hf"] if fails == "hf" else ["hf", "python"])


def test_a_download_that_fails_leaves_no_file_of_that_name(tmp_path):
    done, _ = run(tmp_path, "coco", "here", fails="wget")
    assert done.returncode == 1
    assert not (tmp_path / "here" / "raw" / "annotations.zip").exists()


@pytest.mark.parametrize("arguments", [[], ["here", "half"]])
def test_usage(tmp_path, arguments):
    done, calls = run(tmp_path, "coco", *arguments)
    assert done.returncode == 2
    assert "FOLDER [all|small]" in done.stderr
    assert calls == []


@pytest.mark.parametrize("recipe", [*RECIPES, ROOT / "scripts" / "datasets" / "recipe.sh"], ids=lambda path: path.stem)
def test_shell_style(recipe):
    done = subprocess.run(
        [str(Path(sys.executable).with_name("shellcheck")), "-x", recipe.name],
        cwd=recipe.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
