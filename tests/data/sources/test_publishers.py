"""Each public data set, as its publisher ships it, through the documented command."""

import json
import pickle
import sys
from pathlib import Path

import hydra
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from streaming import LocalDataset

from micro_diffusion.data.sources.source import Source
from micro_diffusion.training.config_checks.errors import sentence
from micro_diffusion.training.config_checks.schema import validate_command
from tests.data.sources.measure_recipes import CAPTION, CONVERT, DATA_SETS
from tests.data.sources.publishers import PUBLISHERS, Made, diffusiondb, sa1b, write_tar

ROOT = Path(__file__).resolve().parents[3]


def configuration(name: str, made: Made, *more: str):
    settings = [f"source.{key}={value}" for key, value in made.settings.items()]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("convert", overrides=[f"source={name}", *settings, *more])


def convert(name: str, made: Made, out: Path, *more: str) -> tuple[dict[str, str], dict[str, str]]:
    """First captions by key of what was written, in order, and reasons by key of what was not."""
    config = configuration(name, made, f"out={out}", *more)
    validate_command(config)
    hydra.utils.call(config, _convert_="all")
    rows = LocalDataset(str(out))
    lines = (out / "rejects.jsonl").read_text().splitlines()
    rejected = {item["key"]: item["reason"] for item in map(json.loads, lines)}
    assert len(lines) == len(rejected)
    return {rows[i]["key"]: rows[i]["caption"] for i in range(len(rows))}, rejected


@pytest.mark.parametrize("name", PUBLISHERS)
def test_every_image_becomes_a_row_or_a_reason(tmp_path, name):
    made = PUBLISHERS[name](tmp_path / "downloaded")
    before = sorted(path for path in tmp_path.rglob("*") if path.suffix != ".index")
    captions, rejected = convert(name, made, tmp_path / "images")
    assert list(captions.items()) == list(made.captions.items())
    assert rejected == made.rejected
    after = [
        path for path in tmp_path.rglob("*") if path.suffix != ".index" and tmp_path / "images" not in path.parents
    ]
    assert sorted(path for path in after if path != tmp_path / "images") == before  # nothing was unpacked anywhere


@pytest.mark.parametrize("name", DATA_SETS)
def test_nothing_is_left_out_where_costs_are_measured(tmp_path, name):
    DATA_SETS[name](tmp_path / "downloaded", 2)
    made = Made({"path": str(tmp_path / "downloaded")}, {}, {})
    captions, rejected = convert(name, made, tmp_path / "images", *CONVERT)
    assert (list(captions.values()), rejected) == ([CAPTION] * 2, {})


@pytest.mark.parametrize("name", PUBLISHERS)
def test_parts_are_always_the_same_and_read_by_any_process(tmp_path, name):
    made = PUBLISHERS[name](tmp_path / "downloaded")
    source = instantiate(configuration(name, made, "out=unused").source, _convert_="all")
    assert isinstance(source, Source)
    parts = source.parts()
    forwards = [list(source.read(part)) for part in parts]
    backwards = [
        list(pickle.loads(pickle.dumps(source)).read(pickle.loads(pickle.dumps(part)))) for part in parts[::-1]
    ]
    assert backwards[::-1] == forwards
    again = instantiate(configuration(name, made, "out=unused").source, _convert_="all")
    assert list(again.parts()) == list(parts)
    assert len(source) >= len(parts)


@pytest.mark.parametrize("captions", ["parquet", "folder"])
def test_captions_of_sa1b_in_other_forms(tmp_path, captions):
    made = sa1b(tmp_path / "downloaded", captions=captions)
    assert convert("sa1b", made, tmp_path / "images") == (made.captions, made.rejected)


def test_the_smaller_diffusiondb(tmp_path):
    made = diffusiondb(tmp_path / "downloaded", subset="2m")
    assert convert("diffusiondb", made, tmp_path / "images") == (made.captions, made.rejected)


def test_diffusiondb_without_limits_needs_no_metadata(tmp_path):
    made = diffusiondb(tmp_path / "downloaded")
    (tmp_path / "downloaded" / "metadata-large.parquet").unlink()
    none = ("source.maximum_image_nsfw=null", "source.maximum_prompt_nsfw=null")
    captions, rejected = convert("diffusiondb", made, tmp_path / "images", *none)
    assert captions["b.webp"] == "blurred" and captions["d.webp"] == "no score"
    assert rejected == {"m.webp": "no caption", "f.webp": "unreadable image"}


@pytest.mark.parametrize("name", ["coco", "textcaps", "textcaps_hub"])
def test_several_captions_of_an_image(tmp_path, name):
    made = PUBLISHERS[name](tmp_path / "downloaded")
    captions, rejected = convert(name, made, tmp_path / "images", "source.captions=2")
    assert captions == made.captions
    rows = LocalDataset(str(tmp_path / "images"))
    further = {rows[i]["caption"]: rows[i]["further_captions"] for i in range(len(rows))}
    assert further in (
        {"Two dogs.": ["Two dogs."], "A cat on a mat.": ["The cat sleeps."]},
        {"a sign that says stop": ["stop sign"], "a bus to Soho": ["a bus to Soho"]},
    )
    (single,) = (key for key in made.captions if further[made.captions[key]] == [made.captions[key]])
    assert rejected == {**made.rejected, f"{single}#2": "empty caption, replaced by another one of the image"}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "journeydb",
            {},
            r"no data/train/imgs/\*\.tgz in .*; source.path should hold .* scripts/datasets/journeydb.sh gets",
        ),
        ("sa1b", {}, r"no sa_\*\.tar in .*scripts/datasets/sa1b.sh gets"),
        ("diffusiondb", {}, r"no diffusiondb-large-part-\*/part-\*\.zip in .*scripts/datasets/diffusiondb.sh gets"),
        ("diffusiondb", {"subset": "3m"}, "subset is '3m'; set source.subset to large or 2m"),
        ("cc12m", {}, r"no cc12m-train-\*\.tar in .*set source.path to a folder of WebDataset archives"),
        ("textcaps", {}, r"no file .*TextCaps_0\.1_train\.json; .*scripts/datasets/textcaps.sh gets"),
        ("coco", {}, r"no file .*captions_val2014\.json; .*scripts/datasets/coco.sh gets"),
        (
            "coco",
            {"captions": "0"},
            "captions is 0; set source.captions to how many of an image are taken",
        ),
        ("parquet", {}, r"there is no \*\.parquet in .*; set the path to one"),
        ("hf_dataset", {}, "the data set .* cannot be loaded .*set source.path to its name on the hub or a folder"),
    ],
)
def test_what_is_missing_and_what_gets_it(tmp_path, name, settings, message):
    config = configuration(name, Made({"path": str(tmp_path), **settings}, {}, {}), "out=unused")
    with pytest.raises(hydra.errors.InstantiationException, match=message):
        instantiate(config.source, _convert_="all")


@pytest.mark.parametrize(
    "absent", ["data/train/train_anno_realease_repath.jsonl.tgz", "SA1B_caption.tar.gz", "metadata-large.parquet"]
)
def test_missing_captions_are_said_before_anything_is_read(tmp_path, absent):
    name = {"d": "journeydb", "S": "sa1b", "m": "diffusiondb"}[absent[0]]
    made = PUBLISHERS[name](tmp_path)
    (tmp_path / absent).unlink()
    config = configuration(name, made, "out=unused")
    with pytest.raises(hydra.errors.InstantiationException, match=f"scripts/datasets/{name}.sh gets"):
        instantiate(config.source, _convert_="all")


def test_captions_that_changed_are_read_again(tmp_path):
    made = PUBLISHERS["sa1b"](tmp_path / "downloaded")
    convert("sa1b", made, tmp_path / "before")
    sa1b_captions = tmp_path / "downloaded" / "SA1B_caption.tar.gz"
    write_tar(sa1b_captions, [("sa_1.txt", b"new"), ("sa_2.txt", b"words"), ("sa_3.txt", b"here")], "w:gz")
    captions, _ = convert("sa1b", made, tmp_path / "after")
    assert captions == {"sa_1": "new", "sa_2": "words", "sa_3": "here"}


@pytest.mark.parametrize(("name", "library"), [("parquet", "pyarrow.parquet"), ("hf_dataset", "datasets")])
def test_a_missing_library_is_one_sentence(tmp_path, monkeypatch, name, library):
    made = PUBLISHERS[name](tmp_path / "downloaded")
    config = configuration(name, made, "out=unused")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(hydra.errors.InstantiationException) as caught:
        instantiate(config.source, _convert_="all")
    assert sentence(caught.value) == (
        f"this source needs the library {library.partition('.')[0]}; install it: pip install 'micro_diffusion[data]' "
        "(in source)"
    )
