"""WebDataset archives: what the library webdataset writes, and what it would not notice."""

import json

import pytest
import webdataset

from micro_diffusion.data.sources.source import CaptionedImage, Rejected
from micro_diffusion.data.sources.web_dataset import WebDataset
from tests.data.sources.publishers import image as some_image
from tests.data.sources.publishers import write_tar


def read(source: WebDataset) -> list[CaptionedImage | Rejected]:
    return [item for part in source.parts() for item in source.read(part)]


def test_what_the_library_writes_is_read_as_the_library_reads_it(tmp_path):
    samples = [
        {"__key__": f"folder/{i:05}", "png": some_image(i, "png"), "txt": f"image {i}", "json": {"i": i}}
        for i in range(9)
    ]
    with webdataset.ShardWriter(str(tmp_path / "%04d.tar"), maxcount=4, verbose=0) as writer:
        for sample in samples:
            writer.write(sample)
    source = WebDataset(path=str(tmp_path))
    assert source.parts() == ["0000.tar", "0001.tar", "0002.tar"]
    urls = [str(tmp_path / part) for part in source.parts()]
    theirs = list(webdataset.WebDataset(urls, shardshuffle=False))
    ours = read(source)
    assert [(item.image, item.caption) for item in ours] == [(row["png"], row["txt"].decode()) for row in theirs]
    assert ours[5] == CaptionedImage(samples[5]["png"], "image 5", "0001/folder/00005")
    assert 9 <= len(source) <= 18


def test_what_img2dataset_writes(tmp_path):
    """Tars of jpg, json and txt; what failed to download is only in the parquet file beside them."""
    files = []
    for key in ("000000000", "000000002"):
        known = {"caption": f"text {key}", "url": "http://a/b.jpg", "key": key, "status": "success"}
        files += [(f"{key}.jpg", some_image(int(key))), (f"{key}.json", json.dumps(known).encode())]
        files += [(f"{key}.txt", known["caption"].encode())]
    write_tar(tmp_path / "00000.tar", files)
    (tmp_path / "00000.parquet").write_bytes(b"")
    (tmp_path / "00000_stats.json").write_text("{}")
    for options in ({}, {"caption": "json:caption"}):
        items = read(WebDataset(path=str(tmp_path), **options))
        assert {item.key: item.caption for item in items} == {
            "00000/000000000": "text 000000000",
            "00000/000000002": "text 000000002",
        }


def test_several_captions_in_json(tmp_path):
    texts = {"a": ["one", "two"], "b": "only", "c": None, "d": [None, "last"], "f": {"en": "x"}}
    files = [
        file
        for key, text in texts.items()
        for file in ((f"{key}.JPG", some_image(1)), (f"{key}.json", json.dumps({"texts": text}).encode()))
    ]
    write_tar(tmp_path / "x.tar", [*files, ("e.jpg", some_image(2)), ("e.json", b"[broken")])
    first = read(WebDataset(path=str(tmp_path), caption="json:texts"))
    assert [getattr(item, "caption", "-") for item in first] == ["one", "only", "-", "last", "-", "-"]
    reasons = {"x/c": "no caption", "x/f": "caption is no text", "x/e": "no caption"}
    assert {item.key: item.reason for item in first if isinstance(item, Rejected)} == reasons
    both = read(WebDataset(path=str(tmp_path), caption="json:texts", captions=2))
    assert [getattr(item, "further_captions", ()) for item in both] == [("two",), ("",), (), ("",), (), ()]


def test_captions_of_several_kinds(tmp_path):
    files = [
        ("a.jpg", some_image(0)),
        ("a.txt", b"short"),
        ("a.llava.txt", b"a long description"),
        ("a.json", b'{"tags": ["t", "u"]}'),
        ("b.jpg", some_image(1)),
        ("b.llava.txt", b"described alone"),
    ]
    write_tar(tmp_path / "x.tar", files)
    source = WebDataset(path=str(tmp_path), caption=["txt", "llava.txt", "json:tags"])
    assert read(source) == [
        CaptionedImage(some_image(0), "short", "x/a", ("a long description", "t")),
        CaptionedImage(some_image(1), "", "x/b", ("described alone", "")),
    ]


def test_samples_that_are_not_whole(tmp_path):
    files = [
        ("a.txt", b"before its image"),
        ("a.jpg", some_image(0)),
        ("mute.jpg", some_image(1)),
        ("words.txt", b"without an image"),
        ("two.jpg", some_image(2)),
        ("two.png", some_image(3, "png")),
        ("two.txt", b"of two"),
        ("masked.jpg", some_image(4)),
        ("masked.seg.png", some_image(5, "png")),
        ("masked.txt", b"the mask is no image"),
        ("../../up.jpg", some_image(6)),
        ("../../up.txt", b"out of the folder"),
    ]
    write_tar(tmp_path / "x.tar", files)
    found = [(item.key, getattr(item, "caption", None) or item.reason) for item in read(WebDataset(path=str(tmp_path)))]
    assert found == [
        ("x/a", "before its image"),
        ("x/mute", "no caption"),
        ("x/words", "no image"),
        ("x/two", "of two"),
        ("x/two.png", "of two"),
        ("x/masked", "the mask is no image"),
        ("x/../../up", "out of the folder"),
    ]


def test_a_text_file_has_one_caption(tmp_path):
    write_tar(tmp_path / "x.tar", [("a.jpg", some_image(0)), ("a.txt", b"one")])
    with pytest.raises(ValueError, match=r"captions is 2, but \.txt holds one of each image; set source\.captions=1"):
        WebDataset(path=str(tmp_path), caption=["txt", "json:tags"], captions=2)


def test_a_json_file_needs_a_field(tmp_path):
    write_tar(tmp_path / "x.tar", [("a.jpg", some_image(0))])
    with pytest.raises(ValueError, match="caption is json; name the field that holds the caption, as in json:caption"):
        WebDataset(path=str(tmp_path), caption="json")


def test_files_of_classes(tmp_path):
    """As the library writes numbers, and in a field."""
    samples = [{"__key__": f"{i}", "jpg": some_image(i), "cls": i, "json": {"style": [i]}} for i in range(3)]
    with webdataset.ShardWriter(str(tmp_path / "%04d.tar"), verbose=0) as writer:
        for sample in samples:
            writer.write(sample)
    for caption in ("cls", "json:style"):
        found = read(WebDataset(path=str(tmp_path), caption=caption, class_names=["cat", "dog"]))
        assert [getattr(item, "caption", None) or item.reason for item in found] == [
            "cat",
            "dog",
            "no class of that number",
        ]
