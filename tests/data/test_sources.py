"""Sources of captioned images."""

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from micro_diffusion.data.sources.emoji import Emoji
from micro_diffusion.data.sources.image_folder import ImageFolder
from micro_diffusion.data.sources.shape_scenes import HELD_OUT, parse_caption
from micro_diffusion.data.sources.shapes import Shapes
from micro_diffusion.data.sources.source import CaptionedImage, Rejected, Source

NOTO = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")


def everything(source: Source) -> list:
    return [item for part in source.parts() for item in source.read(part)]


def save(path: Path, colour: str = "red") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), colour).save(path)


def test_shapes_are_many_small_parts_in_order():
    source = Shapes(seed=2, count=300, resolution=16)
    items = everything(source)
    assert len(source) == len(items) == 300
    assert [item.key for item in items] == [f"shapes-2-{i}" for i in range(300)]
    assert items[140].image.size == (16, 16)
    described = [parse_caption(item.caption) for item in items]
    assert not {(o.colour, o.shape) for text in described for o in text.objects} & HELD_OUT
    again = next(pickle.loads(pickle.dumps(source)).read(range(140, 141)))
    assert np.array_equal(np.asarray(again.image), np.asarray(items[140].image))


def test_a_folder_with_text_files(tmp_path):
    save(tmp_path / "b.png")
    (tmp_path / "b.txt").write_text("a red thing\n")
    save(tmp_path / "deeper" / "a.JPG")
    (tmp_path / "deeper" / "a.txt").write_text("öde")
    save(tmp_path / "silent.png")
    (tmp_path / "notes.md").write_text("no image")
    items = everything(ImageFolder(path=str(tmp_path)))
    assert [item.key for item in items] == ["b.png", "deeper/a.JPG", "silent.png"]
    assert [item.caption for item in items[:2]] == ["a red thing\n", "öde"]
    assert items[0].image == (tmp_path / "b.png").read_bytes()
    assert items[2] == Rejected("silent.png", "no caption")


@pytest.mark.parametrize("column", ["caption", "text"])
@pytest.mark.parametrize("form", ["metadata.jsonl", "captions.csv"])
def test_a_folder_with_a_list(tmp_path, form, column):
    save(tmp_path / "one.png")
    rows = [("one.png", 'a "quoted", red\tthing'), ("gone.png", "lost"), ("one.png", "")]
    if form == "captions.csv":
        quoted = [f'{name},"{caption.replace(chr(34), chr(34) * 2)}"' for name, caption in rows]
        text = "\n".join([f"file_name,{column}", *quoted])
    else:
        text = "\n".join(json.dumps({"file_name": name, column: caption}) for name, caption in rows)
    (tmp_path / form).write_text(text + "\n")
    source = pickle.loads(pickle.dumps(ImageFolder(path=str(tmp_path))))
    first, second, third = everything(source)
    assert first == CaptionedImage((tmp_path / "one.png").read_bytes(), rows[0][1], "one.png")
    assert second == Rejected("gone.png", "no such image")
    assert third.caption == ""


def test_bad_folders_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*; set source.path"):
        ImageFolder(path=str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="names no images; set source.path"):
        ImageFolder(path=str(tmp_path))
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "caption": "a"}\n{"file_name"\n')
    with pytest.raises(ValueError, match=r"line 2 of .*metadata\.jsonl is no JSON"):
        ImageFolder(path=str(tmp_path))
    (tmp_path / "metadata.jsonl").write_text('{"file": "a.png", "caption": "a"}\n')
    with pytest.raises(ValueError, match="entry 1 of .* has file, caption; it needs file_name and caption"):
        ImageFolder(path=str(tmp_path))
    (tmp_path / "metadata.jsonl").rename(tmp_path / "captions.csv").write_text(
        "file_name,caption\na.png,für\n", encoding="latin-1"
    )
    with pytest.raises(ValueError, match=r"captions\.csv is no UTF-8 text \(.* 0xfc .*\); save it in that encoding"):
        ImageFolder(path=str(tmp_path))
    (tmp_path / "metadata.jsonl").touch()
    with pytest.raises(ValueError, match=r"both captions\.csv and metadata\.jsonl"):
        ImageFolder(path=str(tmp_path))


@pytest.mark.parametrize(("captions", "most"), [(None, 1), ('"a"', 1), ('["a", "b"]', 2)])
def test_more_captions_than_any_image_has_are_refused(tmp_path, captions, most):
    save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("one\ntwo")
    if captions:
        (tmp_path / "metadata.jsonl").write_text(f'{{"file_name": "a.png", "caption": {captions}}}')
    with pytest.raises(ValueError, match=rf"captions is 3, but no image of {tmp_path} has more than {most}; set"):
        ImageFolder(path=str(tmp_path), captions=3)
    (item,) = everything(ImageFolder(path=str(tmp_path), captions=most))
    assert len(item.further_captions) == most - 1


def test_a_missing_font_says_what_to_install():
    with pytest.raises(FileNotFoundError, match="apt install fonts-noto-color-emoji"):
        Emoji(font="/nowhere/font.ttf")


@pytest.mark.skipif(not NOTO.exists(), reason="needs fonts-noto-color-emoji")
def test_an_emoji_font_gives_named_images():
    pytest.importorskip("emoji")
    source = Emoji(font=str(NOTO), resolution=32)
    wanted = {
        "1f44d-1f3fd": "thumbs up medium skin tone",
        "1f469-200d-1f680": "woman astronaut",
        "1f1eb-1f1f7": "flag of France",
        "1f3f4-e0067-e0062-e0073-e0063-e0074-e007f": "flag of Scotland",
        "1f34e": "red apple",
        "23-fe0f-20e3": "keycap #",
    }
    entries = {"-".join(f"{ord(c):x}" for c in entry.text): entry for part in source.parts() for entry in part}
    assert len(source) == len(entries) > 3600
    items = list(source.read([entries[key] for key in wanted]))
    assert {item.key: item.caption for item in items} == wanted
    images = [np.asarray(item.image).astype(int) for item in items]
    assert all(some_image.shape == (32, 32, 3) for some_image in images)
    assert all(np.ptp(some_image) > 100 for some_image in images)
    apple = images[4]
    assert apple[16, 16, 0] - apple[16, 16, 2] > 100
    assert apple[0, 0].min() > 250


@pytest.mark.skipif(not NOTO.exists(), reason="needs fonts-noto-color-emoji")
def test_what_a_font_lacks_is_rejected():
    pytest.importorskip("emoji")
    source = Emoji(font=str(NOTO), resolution=32)
    entry = source.parts()[0][0]
    absent = [
        entry._replace(text=text) for text in ("\U0010fffd", "\U0001f600\U0001f600", "\U0001f34e\u200d\U0001f680")
    ]
    assert [item.reason for item in source.read(absent)] == ["not in the font"] * 3


@pytest.mark.skipif(not NOTO.exists(), reason="needs fonts-noto-color-emoji")
def test_a_font_of_bitmaps_has_one_size():
    with pytest.raises(ValueError, match=r"set source\.strike to a size it has"):
        Emoji(font=str(NOTO), strike=64)


def test_images_of_a_folder_are_not_decoded_by_the_source(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "broken.txt").write_text("broken")
    (item,) = everything(ImageFolder(path=str(tmp_path)))
    assert isinstance(item, CaptionedImage)
    with pytest.raises(OSError, match="cannot identify image file"):
        Image.open(io.BytesIO(item.image))


def test_a_list_cannot_lead_out_of_its_folder(tmp_path):
    save(tmp_path / "secret.png")
    save(tmp_path / "data" / "deep" / "in.png")
    names = [
        "deep/in.png",
        "../secret.png",
        "deep/../../secret.png",
        str(tmp_path / "secret.png"),
        "deep/../deep/in.png",
    ]
    lines = [json.dumps({"file_name": name, "caption": ["one", "two"]}) for name in names]
    (tmp_path / "data" / "metadata.jsonl").write_text("\n".join(lines))
    items = everything(ImageFolder(path=str(tmp_path / "data"), captions=2))
    assert [item.reason for item in items if isinstance(item, Rejected)] == ["path leads out of the folder"] * 3
    assert [item.further_captions for item in items if isinstance(item, CaptionedImage)] == [("two",)] * 2
