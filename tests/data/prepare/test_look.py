"""A look at somebody's folder: what can be used, where captions come from, what is proposed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from PIL import Image

from micro_diffusion.cli.look import described, resolution, steps
from micro_diffusion.data.prepare.look import look
from micro_diffusion.data.sources.image_folder import ImageFolder, words
from micro_diffusion.doctor.stage import build_on_meta
from micro_diffusion.files.configs import configs_folder
from micro_diffusion.performance.plan import stage_configs

CONFIGS = configs_folder()


def fill(folder: Path, names: list[str], side: int = 48) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (side, side + number), (number % 256, 0, 0)).save(path)
    return folder


@pytest.mark.parametrize(
    ("name", "said"),
    [("media-playback_start2.png", "media playback start png"), ("redApple", "red apple"), ("IMG_0001", "img")],
)
def test_words_of_a_name(name, said):
    assert words(name) == said


def test_names_say_what_images_show(tmp_path):
    fill(tmp_path, [f"small thing{chr(97 + i)}.png" for i in range(20)])
    (tmp_path / "broken.png").write_bytes(b"no image")
    found = look(tmp_path)
    assert (found.images, found.expected, found.without_text) == (21, 20, "name")
    assert found.reasons == {"unreadable image": 1} and found.captions[0].startswith("small thing")
    said = "\n".join(described(found, "laptop"))
    assert "21 images, about 20 can be used" in said and "unreadable image (1" in said and "learned by heart" in said
    asked = steps(found, "laptop")
    assert "source.without_text=name" in asked["convert"] and asked["precompute"] == ["resolutions=[32,64]"]
    assert asked["plan"] == ["--images=20", "--machine=cpu"]
    assert "machine=24gb" in steps(found, "24gb")["train"]


def test_copies_count_once(tmp_path):
    """Of a linked file, and of one that was copied."""
    fill(tmp_path, [f"small thing{chr(97 + i)}.png" for i in range(20)])
    (tmp_path / "zebra.png").symlink_to("small thinga.png")
    (tmp_path / "zoo.png").write_bytes((tmp_path / "small thingb.png").read_bytes())
    found = look(tmp_path)
    assert (found.images, found.expected, found.reasons) == (22, 20, {"a copy of another image": 2})
    assert "source.copies=reject" in steps(found, "laptop")["convert"]


def test_of_copies_the_one_with_a_text_is_kept(tmp_path):
    fill(tmp_path, ["a.png"])
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    (tmp_path / "b.txt").write_text("a black square")
    entries = ImageFolder(path=str(tmp_path), copies="reject").list_entries(tmp_path)
    assert {entry.name: entry.rejected for entry in entries} == {"a.png": "a copy of another image", "b.png": ""}


def test_a_name_that_no_file_can_have_ends_nothing(tmp_path):
    fill(tmp_path, ["a.png", "b.png"])
    names = ["a.png", "b.png", "x" * 300 + ".png", "gone.png"]
    (tmp_path / "captions.csv").write_text("file_name,caption\n" + "".join(f"{name},a square\n" for name in names))
    entries = ImageFolder(path=str(tmp_path), copies="reject").list_entries(tmp_path)
    assert [entry.rejected for entry in entries] == [""] * 4


def test_the_length_follows_the_number_of_images(tmp_path):
    found = look(fill(tmp_path, [f"small thing{chr(97 + i)}.png" for i in range(20)]))
    lengths = {}
    for images in (20, 640, 100_000):
        asked = steps(dataclasses.replace(found, images=images, usable=1.0), "laptop")
        assert asked["small_finetune"][-1] == asked["large_finetune"][-1]
        lengths[images] = asked["large_finetune"][-1].removeprefix("trainer.max_duration=")
    assert lengths == {20: "300ba", 640: "1000ba", 100_000: "3000ba"}


def test_folders_say_it_where_names_do_not(tmp_path):
    fill(tmp_path, [f"{kind}/{i:04d}.png" for kind in ("cats", "dogs") for i in range(10)], side=300)
    found = look(tmp_path)
    assert found.without_text == "folder" and set(found.captions) == {"cats", "dogs"}
    assert [resolution(found, preset) for preset in ("laptop", "80gb")] == [64, 256]


def test_texts_come_first(tmp_path):
    fill(tmp_path, [f"red apple {i}.png" for i in range(16)])
    for i in range(16):
        (tmp_path / f"red apple {i}.txt").write_text("an apple, 'red'")
    found = look(tmp_path)
    assert found.without_text == "reject" and found.captions[0] == "an apple, 'red'"
    assert b"prompts.captions=['an apple, \\'red\\''," in steps(found, "laptop")["train"][0].encode()


def test_without_captions_there_is_no_prompt(tmp_path):
    """What is proposed fits together: every training is composed with it."""
    found = look(fill(tmp_path, [f"{i:03d}.png" for i in range(20)]))
    said, asked = "\n".join(described(found, "laptop")), steps(found, "laptop")
    assert "captions none, so images are generated without a prompt" in said
    assert "source.without_text=nothing" in asked["convert"] and "text_encoder=none" in asked["precompute"]
    for stage in ("small_pretrain", "large_finetune"):
        (config,) = stage_configs(CONFIGS, [f"mine_{stage}"], [*asked["train"], *asked[stage]]).values()
        assert build_on_meta(config).caption_drop == 0 and set(config.prompts.captions) == {""}


@pytest.mark.parametrize(
    ("names", "error"),
    [
        ([f"a thing {i}.png" for i in "abc"], "has 3 images that can be used, and training needs at least 16"),
    ],
)
def test_what_is_missing_is_said(tmp_path, names, error):
    with pytest.raises(ValueError, match=error):
        look(fill(tmp_path, names))
