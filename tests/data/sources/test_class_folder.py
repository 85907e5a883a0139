"""A folder for each class: names become captions, and a folder that is not in order is refused."""

import pickle
from pathlib import Path

import pytest

from micro_diffusion.data.prepare.preparation import Preparation
from micro_diffusion.data.sources.class_folder import ClassFolder
from micro_diffusion.data.sources.source import CaptionedImage, Rejected
from tests.data.sources.publishers import image


def write(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(image(number))
    return root


def read(source: ClassFolder) -> list[CaptionedImage | Rejected]:
    return [item for part in source.parts() for item in source.read(part)]


def test_the_folder_is_the_caption(tmp_path):
    write(tmp_path, "Ukiyo_e/b.jpg", "Cubism/deep/a.JPEG", "Cubism/c.png", ".cache/x.png")
    (tmp_path / "LICENSE.txt").touch()
    (tmp_path / "Cubism" / "notes.txt").touch()
    source = pickle.loads(pickle.dumps(ClassFolder(path=str(tmp_path))))
    assert [(item.key, item.caption) for item in read(source)] == [
        ("Cubism/c.png", "Cubism"),
        ("Cubism/deep/a.JPEG", "Cubism"),
        ("Ukiyo_e/b.jpg", "Ukiyo_e"),
    ]
    assert len(source) == 3
    named = ClassFolder(path=str(tmp_path), class_names=["cubism", "woodblock prints"])
    assert [item.caption for item in read(named)] == ["cubism", "cubism", "woodblock prints"]


def test_what_is_not_in_order_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*; set source.path to a folder with one for each"):
        ClassFolder(path=str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="holds no folders; set source.path"):
        ClassFolder(path=str(tmp_path))
    write(tmp_path, "a/1.jpg", "b/2.jpg")
    with pytest.raises(ValueError, match="class_names has 1 names, but .* holds 2 folders; .* order a to b"):
        ClassFolder(path=str(tmp_path), class_names=["one"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(ValueError, match="the class folder .*empty holds no images; put some in, or remove it"):
        ClassFolder(path=str(tmp_path))
    write(tmp_path, "empty/3.jpg", "stray.jpg")
    with pytest.raises(ValueError, match=r"stray\.jpg lies in no folder of a class; move it into one"):
        ClassFolder(path=str(tmp_path))


def test_small_files_are_rejected(tmp_path):
    """Placeholders of a few bytes, as in copies of WikiArt; their size is that of the file."""
    write(tmp_path, "a/1.jpg")
    (item,) = read(ClassFolder(path=str(tmp_path)))
    assert isinstance(item, CaptionedImage) and isinstance(item.image, bytes)
    size = len(item.image)
    (kept,) = Preparation(minimum_bytes=size).rows(item)
    assert isinstance(kept, dict) and kept["caption"] == "a"
    assert list(Preparation(minimum_bytes=size + 1).rows(item)) == [Rejected("a/1.jpg", f"file below {size + 1} bytes")]
