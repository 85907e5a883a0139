"""Small data sets in the layouts of their publishers, each with a fault or two, and what should become of them."""

import io
import json
import tarfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

BROKEN = b"\xff\xd8\xff\xe0 no image after all"


class Made(NamedTuple):
    """The settings that read a data set; by key, the captions that are kept and the reasons of what is not."""

    settings: dict[str, str]
    captions: dict[str, str]
    rejected: dict[str, str]


def image(seed: int, form: str = "jpeg", size: tuple[int, int] = (24, 20)) -> bytes:
    """Noise, so that no two images are the same."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **({"lossless": True} if form == "webp" else {}))
    return buffer.getvalue()


def write_tar(path: Path, files: Iterable[tuple[str, bytes]], mode: Literal["w", "w:gz"] = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_zip(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files:
            archive.writestr(name, content)
    return path


def write_parquet(path: Path, columns: dict[str, Sequence], group: int = 2) -> Path:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=group)
    return path


def journeydb(root: Path) -> Made:
    """Two gzipped archives; the prompts of both in one file, in another order and not of the same images."""
    files = root / "data" / "train"
    write_tar(
        files / "imgs" / "000.tgz",
        [(f"./000/{name}.jpg", image(seed)) for seed, name in enumerate(("b", "a", "mute", "null", "object"))],
        "w:gz",
    )
    write_tar(files / "imgs" / "001.tgz", [("001/../../../a.jpg", image(3)), ("001/c.jpg", BROKEN)], "w:gz")
    prompts = {
        "001/a.jpg": "third",
        "001/c.jpg": "broken",
        "009/x.jpg": "not here",
        "000/a.jpg": "one",
        "000/b.jpg": "two",
        "000/null.jpg": None,
        "000/object.jpg": {"en": "a"},
    }
    lines = [
        json.dumps({"prompt": prompt, "img_path": f"./{path}", "Task2": {"Caption": "?"}})
        for path, prompt in prompts.items()
    ]
    annotations = "train_anno_realease_repath.jsonl"
    write_tar(files / f"{annotations}.tgz", [(annotations, "\n".join(lines).encode())], "w:gz")
    return Made(
        {"path": str(root)},
        {"000/b.jpg": "two", "000/a.jpg": "one", "001/a.jpg": "third"},
        {
            "000/mute.jpg": "no caption",
            "000/null.jpg": "no caption",
            "000/object.jpg": "caption is no text",
            "001/c.jpg": "unreadable image",
        },
    )


def sa1b(root: Path, *, captions: str = "tar") -> Made:
    """Images and masks; captions in an archive of text files, in parquet, or in a folder of text files."""
    masks = json.dumps({"annotations": []}).encode()
    write_tar(
        root / "sa_000000.tar",
        [("./sa_1.jpg", image(0)), ("./sa_1.json", masks), ("./sa_2.jpg", image(1)), ("./sa_2.json", masks)],
    )
    write_tar(root / "sa_000001.tar", [("./sa_3.jpg", image(2)), ("./sa_3.json", masks), ("./sa_4.jpg", BROKEN)])
    texts = {
        "sa_4": "broken",
        "sa_3": "The image shows a street.",
        "sa_99": "not here",
        "sa_1": "The image shows a cat.",
    }
    path = root / "SA1B_caption.tar.gz"
    if captions == "tar":
        write_tar(path, [(f"./SA1B_caption/{key}.txt", text.encode()) for key, text in texts.items()], "w:gz")
    elif captions == "parquet":
        keys = [f"SA1B_caption/{key}" for key in texts]
        path = write_parquet(
            root / "captions" / "0000.parquet", {"__key__": keys, "__url__": keys, "txt": list(texts.values())}
        ).parent
    else:
        path = root / "captions"
        path.mkdir()
        for key, text in texts.items():
            (path / f"{key}.txt").write_text(text)
    return Made(
        {"path": str(root), **({} if captions == "tar" else {"caption_path": str(path)})},
        {"sa_1": texts["sa_1"], "sa_3": texts["sa_3"]},
        {"sa_2": "no caption", "sa_4": "unreadable image"},
    )


def diffusiondb(root: Path, *, subset: str = "large") -> Made:
    """An archive of each folder; the metadata of all images in one parquet file, in another order."""
    form, archives = ("webp", "diffusiondb-large-part-{}") if subset == "large" else ("png", "images")
    rows = {  # name: prompt, scores of image and prompt
        f"f.{form}": ("broken", 0.1, 0.1),
        f"e.{form}": ("second part", 0.1, 0.1),
        f"d.{form}": ("no score", 0.1, None),
        f"c.{form}": ("rude words", 0.1, 0.9),
        f"b.{form}": ("blurred", 2.0, 0.1),
        f"a.{form}": ("a small liquid sculpture", 0.2, 0.0),
    }
    for number, names in ((1, "abcdm"), (10001, "ef")):
        part = f"part-{number:06}"
        stems = {f"{name}.{form}": BROKEN if name == "f" else image(ord(name), form) for name in names}
        prompts = {name: {"p": rows[name][0], "se": 1, "c": 7.0} for name in stems if name in rows}
        folder = archives.format(1 if number < 10001 else 2)
        write_zip(root / folder / f"{part}.zip", [*stems.items(), (f"{part}.json", json.dumps(prompts).encode())])
    prompts, image_nsfw, prompt_nsfw = zip(*rows.values(), strict=True)
    write_parquet(
        root / ("metadata-large.parquet" if subset == "large" else "metadata.parquet"),
        {
            "image_name": list(rows),
            "prompt": list(prompts),
            "part_id": [10001, 10001, 1, 1, 1, 1],
            "image_nsfw": list(image_nsfw),
            "prompt_nsfw": list(prompt_nsfw),
        },
    )
    return Made(
        {"path": str(root), "subset": subset},
        {f"a.{form}": "a small liquid sculpture", f"e.{form}": "second part"},
        {
            f"b.{form}": "image_nsfw above 0.2",
            f"c.{form}": "prompt_nsfw above 0.2",
            f"d.{form}": "no prompt_nsfw",
            f"m.{form}": "no caption",
            f"f.{form}": "unreadable image",
        },
    )


def cc12m(root: Path) -> Made:
    """The hub's archives, each sample an image, a text and what is known of the download."""
    for shard, first in ((0, 0), (1, 3)):
        files: list[tuple[str, bytes]] = []
        for number in range(first, first + 3):
            key = f"{number:09}"
            files.append((f"{key}.jpg", BROKEN if number == 4 else image(number)))
            files.append((f"{key}.json", json.dumps({"key": key, "status": "success"}).encode()))
            if number != 2:
                files.append((f"{key}.txt", f"caption {number}".encode()))
        write_tar(root / f"cc12m-train-{shard:04}.tar", files)
    return Made(
        {"path": str(root)},
        {
            f"cc12m-train-000{shard}/{number:09}": f"caption {number}"
            for shard, number in ((0, 0), (0, 1), (1, 3), (1, 5))
        },
        {"cc12m-train-0000/000000002": "no caption", "cc12m-train-0001/000000004": "unreadable image"},
    )


def textcaps(root: Path) -> Made:
    """A list with a row a caption, and the folder of images."""
    texts = {
        "0a": ["a sign that says stop", "stop sign"],
        "0b": ["a bus to Soho"],
        "../../0c": ["outside"],
        "0d": ["lost"],
        "0e": [None],
        "0f": [{"en": "a"}],
    }
    rows = [
        {"image_id": key, "image_name": key, "caption_str": text, "reference_strs": list_, "caption_id": 1}
        for key, list_ in texts.items()
        for text in list_
    ]
    (root / "train_images").mkdir(parents=True)
    (root / "TextCaps_0.1_train.json").write_text(json.dumps({"dataset_type": "train", "data": rows}))
    (root / "0c.jpg").write_bytes(image(9))
    for key in ("0a", "0b", "0e", "0f"):
        (root / "train_images" / f"{key}.jpg").write_bytes(image(ord(key[1])))
    return Made(
        {"path": str(root)},
        {"0a.jpg": "a sign that says stop", "0b.jpg": "a bus to Soho"},
        {
            "../../0c.jpg": "path leads out of the folder",
            "0d.jpg": "no such image",
            "0e.jpg": "no caption",
            "0f.jpg": "caption is no text",
        },
    )


def textcaps_hub(root: Path) -> Made:
    """The hub's parquet files: all captions of an image in one row; those of the test split have none."""
    texts = [["a sign that says stop", "stop sign"], ["a bus to Soho"], ["broken"], []]
    cells = [
        {"bytes": image(0), "path": "0a.jpg"},
        {"bytes": image(1), "path": None},
        {"bytes": BROKEN, "path": None},
    ]
    columns = {
        "image": [*cells, {"bytes": image(3), "path": None}],
        "image_id": ["0a", "0b", "0c", "0d"],
        "reference_strs": texts,
    }
    write_parquet(root / "data" / "train-00000-of-00001.parquet", columns)
    write_parquet(root / "data" / "test-00000-of-00001.parquet", columns)
    return Made(
        {"path": str(root)},
        {"0a": "a sign that says stop", "0b": "a bus to Soho"},
        {"0c": "unreadable image", "0d": "no caption"},
    )


def coco(root: Path) -> Made:
    """A folder of images and their annotations, whose order is another."""
    name = "COCO_val2014_{:012}.jpg"
    texts = [
        (42, "A cat on a mat."),
        (7, "Two dogs."),
        (42, "The cat sleeps."),
        (9, "Lost."),
        (11, "Broken."),
        (42, " "),
        (12, None),
        (13, {"en": "a"}),
    ]
    images = [{"id": number, "file_name": name.format(number), "license": 3} for number in (7, 42, 9, *range(10, 14))]
    captions = [{"image_id": number, "id": place, "caption": text} for place, (number, text) in enumerate(texts)]
    (root / "annotations").mkdir(parents=True)
    (root / "val2014").mkdir()
    (root / "annotations" / "captions_val2014.json").write_text(
        json.dumps({"info": {}, "images": images, "licenses": [], "annotations": captions})
    )
    for number in (7, 42, *range(10, 14)):
        content = BROKEN if number == 11 else image(number)
        (root / "val2014" / name.format(number)).write_bytes(content)
    return Made(
        {"path": str(root)},
        {name.format(7): "Two dogs.", name.format(42): "A cat on a mat."},
        {
            name.format(9): "no such image",
            name.format(10): "no caption",
            name.format(11): "unreadable image",
            name.format(12): "no caption",
            name.format(13): "caption is no text",
        },
    )


def parquet(root: Path) -> Made:
    """The content of files in one parquet file, one caption an image, row groups of two."""
    write_parquet(
        root / "deeper" / "part.parquet",
        {"image": [image(0), BROKEN, image(2), None, image(4)], "caption": ["one", "two", "three", "four", None]},
    )
    return Made(
        {"path": str(root)},
        {"deeper/part/0": "one", "deeper/part/2": "three"},
        {"deeper/part/1": "unreadable image", "deeper/part/3": "no such image", "deeper/part/4": "no caption"},
    )


def hf_dataset(root: Path) -> Made:
    """What the library datasets has saved to the disk."""
    import datasets

    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    cells = [{"bytes": content, "path": None} for content in (image(0), image(1), BROKEN, image(3))]
    rows = datasets.Dataset.from_dict({"image": cells, "caption": ["one", "two", "three", None]}, features=features)
    rows.save_to_disk(str(root))
    return Made(
        {"path": str(root)},
        {"train-0": "one", "train-1": "two"},
        {"train-2": "unreadable image", "train-3": "no caption"},
    )


PUBLISHERS = {
    make.__name__: make
    for make in (journeydb, sa1b, diffusiondb, cc12m, textcaps, textcaps_hub, coco, parquet, hf_dataset)
}
