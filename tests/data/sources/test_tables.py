"""Parquet files and the library datasets: images and captions in every form that a cell has."""

import datasets
import pyarrow
import pytest

from micro_diffusion.data.sources.hf_dataset import HfDataset
from micro_diffusion.data.sources.parquet import Parquet, RowGroup
from micro_diffusion.data.sources.source import CaptionedImage, Rejected
from tests.data.sources.publishers import image as some_image
from tests.data.sources.publishers import write_parquet


def read(source) -> list[CaptionedImage | Rejected]:
    return [item for part in source.parts() for item in source.read(part)]


def test_each_row_group_is_a_part(tmp_path):
    images = [some_image(i) for i in range(5)]
    for name in ("b", "a"):
        write_parquet(tmp_path / f"{name}.parquet", {"image": images, "caption": [f"{name}{i}" for i in range(5)]})
    source = Parquet(path=str(tmp_path))
    assert len(source) == 10
    assert source.parts()[:3] == [
        RowGroup("a.parquet", 0, 0, 2),
        RowGroup("a.parquet", 1, 2, 2),
        RowGroup("a.parquet", 2, 4, 1),
    ]
    assert [item.key for item in read(source)] == [f"{name}/{i}" for name in "ab" for i in range(5)]
    (last,) = source.read(source.parts()[-1])
    assert last == CaptionedImage(images[4], "b4", "b/4")
    assert len(Parquet(path=str(tmp_path), files="a.*")) == len(Parquet(path=str(tmp_path / "a.parquet"))) == 5


def test_paths_stay_in_the_folder(tmp_path):
    inside, outside = tmp_path / "data" / "images" / "in.jpg", tmp_path / "out.jpg"
    inside.parent.mkdir(parents=True)
    inside.write_bytes(some_image(0))
    outside.write_bytes(some_image(1))
    absent = ["images/gone.jpg", "images", "", "long" * 100 + ".jpg", "long/" * 1000, "images/in.jpg\0"]
    paths = ["images/in.jpg", str(inside), "../out.jpg", str(outside), *absent]
    columns = {"image": paths, "caption": ["text"] * len(paths), "name": [f"n{i}" for i in range(len(paths))]}
    write_parquet(tmp_path / "data" / "list.parquet", columns)
    items = read(Parquet(path=str(tmp_path / "data"), key="name"))
    assert [item.image for item in items[:2]] == [inside.read_bytes()] * 2
    assert items[2:] == [
        Rejected("n2", "path leads out of the folder"),
        Rejected("n3", "path leads out of the folder"),
        *(Rejected(f"n{i}", "no such image") for i in range(4, 4 + len(absent))),
    ]


@pytest.mark.parametrize("cells", [[1, 2], [0.5, 1e300], [True, False], [[1, 2], [3]]])
def test_cells_without_an_image_are_rejected(tmp_path, cells):
    write_parquet(tmp_path / "x.parquet", {"image": cells, "caption": ["a", "b"]})
    assert read(Parquet(path=str(tmp_path))) == [Rejected(f"x/{i}", "no image in the cell") for i in range(2)]


@pytest.mark.parametrize("kind", ["list_", "large_list", "list_view", "large_list_view"])
def test_lists_of_captions(tmp_path, kind):
    cells = pyarrow.array([["a", None, "b"], [], None], getattr(pyarrow, kind)(pyarrow.string()))
    columns = {"image": [some_image(i) for i in range(3)], "caption": cells}
    write_parquet(tmp_path / "x.parquet", columns)
    first, *rest = read(Parquet(path=str(tmp_path), captions=3))
    assert (first.caption, first.further_captions) == ("a", ("b", ""))
    assert rest == [Rejected("x/1", "no caption"), Rejected("x/2", "no caption")]


def test_lists_of_a_fixed_size(tmp_path):
    cells = pyarrow.array([["a", "b"]], pyarrow.list_(pyarrow.string(), 2))
    write_parquet(tmp_path / "x.parquet", {"image": [some_image(0)], "caption": cells})
    (item,) = read(Parquet(path=str(tmp_path), captions=2))
    assert (item.caption, item.further_captions) == ("a", ("b",))


@pytest.mark.parametrize("cells", [[{"en": "a"}] * 2, [1, 2], [b"a", b"b"], [[["a"]], [["b"]]]])
def test_captions_that_are_no_texts_are_rejected(tmp_path, cells):
    write_parquet(tmp_path / "x.parquet", {"image": [some_image(i) for i in range(2)], "caption": cells})
    assert read(Parquet(path=str(tmp_path))) == [Rejected(f"x/{i}", "caption is no text") for i in range(2)]


def test_several_captions_need_lists(tmp_path):
    """Or every image would have its only caption several times."""
    write_parquet(tmp_path / "x.parquet", {"image": [some_image(0)], "caption": ["a"], "more": [["b", "c"]]})
    datasets.Dataset.from_parquet(str(tmp_path / "x.parquet")).save_to_disk(str(tmp_path / "saved"))
    for source in (Parquet, HfDataset):
        path = str(tmp_path / ("x.parquet" if source is Parquet else "saved"))
        with pytest.raises(ValueError, match="captions is 2, but the column caption holds one of each image; set"):
            source(path=path, caption=["caption", "more"], captions=2)
        (item,) = read(source(path=path, caption="more", captions=2))
        assert (item.caption, item.further_captions) == ("b", ("c",))


def test_columns_of_captions(tmp_path):
    """Such as the text that came with an image and a description by a model."""
    columns = {
        "image": [some_image(i) for i in range(3)],
        "alt": ["a", None, None],
        "llava": ["long a", "long b", None],
    }
    write_parquet(tmp_path / "x.parquet", columns)
    datasets.Dataset.from_parquet(str(tmp_path / "x.parquet")).save_to_disk(str(tmp_path / "saved"))
    expected = [("a", ("long a",)), ("", ("long b",)), "no caption"]
    parquet = Parquet(path=str(tmp_path / "x.parquet"), caption=["alt", "llava"])
    for source in (parquet, HfDataset(path=str(tmp_path / "saved"), caption=["alt", "llava"])):
        items = read(source)
        assert [i.reason if isinstance(i, Rejected) else (i.caption, i.further_captions) for i in items] == expected


def test_bad_parquet_files_are_named(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", {"image": [some_image(i) for i in range(40)], "text": ["t"] * 40}, 40)
    with pytest.raises(ValueError, match=r"x\.parquet has no column caption; it has image, text"):
        Parquet(path=str(tmp_path))
    source = Parquet(path=str(tmp_path), caption="text")
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(
        ValueError, match=r"x\.parquet cannot be read to its end \(.*\); get this file again, or remove it"
    ):
        Parquet(path=str(tmp_path), caption="text")
    path.write_bytes(whole[:4] + bytes(2000) + whole[2004:])
    with pytest.raises(ValueError, match=r"x\.parquet cannot be read to its end \(.*\); get this file again"):
        list(source.read(source.parts()[0]))


def test_data_sets_that_were_saved_with_splits(tmp_path):
    rows = datasets.Dataset.from_dict(
        {"image": [{"bytes": some_image(0), "path": None}], "texts": [["a", "b"]], "id": ["k"]}
    )
    rows = rows.cast_column("image", datasets.Image())
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path))
    options = {"path": str(tmp_path), "image": "image", "caption": "texts", "captions": 2}
    assert read(HfDataset(split="test", key="id", **options)) == [CaptionedImage(some_image(0), "a", "k", ("b",))]
    assert [item.key for item in read(HfDataset(**options))] == ["train-0"]
    with pytest.raises(ValueError, match=r"split none, cannot be loaded .* source\.split to one of its splits"):
        HfDataset(split="none", **options)
    with pytest.raises(ValueError, match="has no column label; it has image, texts, id"):
        HfDataset(**{**options, "image": "label"})


def test_a_folder_of_files_that_the_library_loads(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.jpg").write_bytes(some_image(number))
    (folder / "metadata.jsonl").write_text("".join(f'{{"file_name": "{i}.jpg", "text": "t{i}"}}\n' for i in range(2)))
    items = read(HfDataset(path=str(folder), caption="text"))
    assert [(item.image, item.caption) for item in items] == [(some_image(0), "t0"), (some_image(1), "t1")]


NAMES = ["cat", "dog"]


def table_of_classes(folder, **columns):
    """A parquet file and a saved data set with a column of numbers, or lists of them, that the library names."""
    label = datasets.ClassLabel(names=NAMES)
    cells = {"image": [{"bytes": some_image(i), "path": None} for i in range(3)], **columns}
    features = {"image": datasets.Image()}
    for name, values in columns.items():
        features[name] = datasets.Sequence(label) if isinstance(values[0], list) else label
    rows = datasets.Dataset.from_dict(cells, features=datasets.Features(features))
    rows.to_parquet(str(folder / "x.parquet"))
    rows.save_to_disk(str(folder / "saved"))
    return Parquet, str(folder / "x.parquet"), HfDataset, str(folder / "saved")


def test_numbered_classes_have_the_names_of_the_library(tmp_path):
    parquet, table, hub, saved = table_of_classes(tmp_path, style=[1, 0, -1], tags=[[0, 1], [1], [0]])
    for kind, path in ((parquet, table), (hub, saved)):
        found = read(kind(path=path, caption="style"))
        assert [item.caption for item in found[:2]] == ["dog", "cat"]
        assert isinstance(found[2], Rejected) and found[2].reason == "no class of that number"
        both = read(kind(path=path, caption="tags", captions=2))
        assert [(item.caption, *item.further_captions) for item in both] == [("cat", "dog"), ("dog", ""), ("cat", "")]
        own = read(kind(path=path, caption="style", class_names=["Katze", "Hund"]))
        assert [item.caption for item in own[:2]] == ["Hund", "Katze"]


def test_numbers_without_names_get_them_from_the_settings(tmp_path):
    columns = {"image": [some_image(i) for i in range(3)], "label": [1, 0, 2], "text": ["a", "b", "c"]}
    write_parquet(tmp_path / "x.parquet", columns)
    datasets.Dataset.from_parquet(str(tmp_path / "x.parquet")).save_to_disk(str(tmp_path / "saved"))
    for kind, path in ((Parquet, tmp_path / "x.parquet"), (HfDataset, tmp_path / "saved")):
        found = read(kind(path=str(path), caption="label", class_names=NAMES))
        assert [getattr(item, "caption", None) or item.reason for item in found] == [
            "dog",
            "cat",
            "no class of that number",
        ]
        with pytest.raises(ValueError, match="class_names are given, but text of .* holds no whole numbers; set"):
            kind(path=str(path), caption="text", class_names=NAMES)
