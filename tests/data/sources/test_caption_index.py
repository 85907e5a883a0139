"""Captions by key, from any process."""

import multiprocessing
from pathlib import Path

import pytest

from micro_diffusion.data.sources.caption_index import CaptionIndex


def index(path: Path, read=None) -> CaptionIndex:
    return CaptionIndex(path, read or (lambda path: [("a", path.read_text()), ("b", ["x", None]), ("a", "second")]))


def test_values_come_by_key_in_the_order_of_the_annotations(tmp_path):
    (tmp_path / "list").write_text("first")
    with index(tmp_path / "list").open() as look_up:
        assert look_up("a") == ["first", "second"]
        assert look_up("b") == [["x", None]]
        assert look_up("c") == []


def test_it_is_made_once_until_the_annotations_change(tmp_path):
    calls = []

    def read(path):
        calls.append(path)
        return [("half", "\ud800")]

    for text in ("one", "one", "longer"):
        if not (tmp_path / "list").exists() or (tmp_path / "list").read_text() != text:
            (tmp_path / "list").write_text(text)
        with index(tmp_path / "list", read).open() as look_up:
            assert look_up("half") == ["\ud800"]
    assert len(calls) == 2


def test_an_interrupted_index_is_made_again(tmp_path):
    (tmp_path / "list").write_text("text")

    def failing(path):
        yield "a", "half of it"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index(tmp_path / "list", failing).make()
    with index(tmp_path / "list").open() as look_up:
        assert look_up("a") == ["text", "second"]


def slow(path):
    with (path.parent / "calls").open("a") as calls:
        calls.write("x")
    yield from ((f"{i}", i) for i in range(50_000))


def make(path: Path) -> None:
    CaptionIndex(path, slow).make()


def test_processes_that_start_together_make_it_once(tmp_path):
    (tmp_path / "list").write_text("text")
    with multiprocessing.get_context("fork").Pool(3) as pool:
        pool.map(make, [tmp_path / "list"] * 3)
    assert (tmp_path / "calls").read_text() == "x"


def test_an_index_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "list").write_text("text")
    (tmp_path / "list.index").write_bytes(b"no database, but something else" * 100)
    with pytest.raises(OSError, match=r"list\.index, the index of the captions, cannot be made or read"):
        index(tmp_path / "list").make()
