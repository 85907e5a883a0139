"""What the recipes of the public data sets cost, on synthetic images in the layouts of the publishers.

python -m tests.data.sources.measure_recipes data/costs --images 200
"""

import argparse
import io
import json
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.data.sources.publishers import write_parquet, write_tar, write_zip

ROOT = Path(__file__).resolve().parents[3]
CAPTION = "a photograph of a harbour in the evening with two red boats"
CONVERT = ["preparation.minimum_side=256", "preparation.shorter_side=512", "engine.count=1"]
PRECOMPUTE = ["resolutions=[128,256]", "text_encoder.dim=1023", "text_encoder.window=3", "text_encoder.max_length=77"]


class Row(NamedTuple):
    """Means over the images of one data set: bytes at each step, and seconds of one core less those of the start."""

    raw: float
    images: float
    latents: float
    convert: float
    precompute: float


@cache
def noise(side: int = 2560) -> np.ndarray:
    """(side, side, 3) uint8 coloured noise, amplitude 1/f as in photographs; it goes on at its edges."""
    generator = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf
    channels = [np.fft.irfft2(np.fft.rfft2(generator.normal(size=(side, side))) / frequency) for _ in range(3)]
    field = np.stack([0.9 * channels[0] + 0.1 * channel for channel in channels], axis=-1)  # mostly luminance
    return (128 + 50 * field / field.std()).clip(0, 255).astype(np.uint8)


def photographs(count: int, width: int, height: int, form: str = "jpeg") -> Iterator[bytes]:
    """Windows of the noise, each at a place of its own, as files: JPEG at quality 90, WebP without loss."""
    generator = np.random.default_rng(1)
    options = {"lossless": True, "method": 1} if form == "webp" else {"quality": 90}
    for _ in range(count):
        y, x = generator.integers(0, len(noise()), 2)
        buffer = io.BytesIO()
        window = np.roll(noise(), (-y, -x), (0, 1))[:height, :width]
        Image.fromarray(np.ascontiguousarray(window)).save(buffer, form, **options)
        yield buffer.getvalue()


def journeydb(root: Path, count: int) -> None:
    folder, annotations = root / "data" / "train", "train_anno_realease_repath.jsonl"
    names = [f"./000/{number:032x}.jpg" for number in range(count)]
    write_tar(folder / "imgs" / "000.tgz", zip(names, photographs(count, 1024, 1024), strict=True), "w:gz")
    lines = "\n".join(json.dumps({"img_path": name, "prompt": CAPTION}) for name in names)
    write_tar(folder / f"{annotations}.tgz", [(annotations, lines.encode())], "w:gz")


def sa1b(root: Path, count: int) -> None:
    image_files = enumerate(photographs(count, 2250, 1500))
    write_tar(root / "sa_000000.tar", ((f"./sa_{number}.jpg", content) for number, content in image_files))
    texts = [(f"./SA1B_caption/sa_{number}.txt", CAPTION.encode()) for number in range(count)]
    write_tar(root / "SA1B_caption.tar.gz", texts, "w:gz")


def diffusiondb(root: Path, count: int) -> None:
    names = [f"{number:032x}.webp" for number in range(count)]
    archive = root / "diffusiondb-large-part-1" / "part-000001.zip"
    write_zip(archive, zip(names, photographs(count, 512, 512, "webp"), strict=True))
    columns = {"image_name": names, "prompt": [CAPTION] * count, "part_id": [1] * count}
    scores = {"image_nsfw": [0.1] * count, "prompt_nsfw": [0.1] * count}
    write_parquet(root / "metadata-large.parquet", {**columns, **scores}, group=count)


def cc12m(root: Path, count: int) -> None:
    files = (
        file
        for number, content in enumerate(photographs(count, 1024, 768))
        for file in ((f"{number:09}.jpg", content), (f"{number:09}.txt", CAPTION.encode()))
    )
    write_tar(root / "cc12m-train-0000.tar", files)


def textcaps(root: Path, count: int) -> None:
    keys = [f"{number:016x}" for number in range(count)]
    (root / "train_images").mkdir(parents=True)
    for key, content in zip(keys, photographs(count, 1024, 768), strict=True):
        (root / "train_images" / f"{key}.jpg").write_bytes(content)
    rows = [{"image_id": key, "caption_str": CAPTION, "reference_strs": [CAPTION] * 5} for key in keys]
    (root / "TextCaps_0.1_train.json").write_text(json.dumps({"data": rows}))


def coco(root: Path, count: int) -> None:
    names = [f"COCO_val2014_{number:012}.jpg" for number in range(count)]
    (root / "annotations").mkdir(parents=True)
    (root / "val2014").mkdir()
    for name, content in zip(names, photographs(count, 640, 480), strict=True):
        (root / "val2014" / name).write_bytes(content)
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    captions = [{"image_id": number % count, "id": number, "caption": CAPTION} for number in range(5 * count)]
    listed = json.dumps({"images": images, "annotations": captions})
    (root / "annotations" / "captions_val2014.json").write_text(listed)


DATA_SETS = {make.__name__: make for make in (journeydb, sa1b, diffusiondb, cc12m, textcaps, coco)}


def seconds(script: str, *options: str) -> float:
    """Of one core for a command, less those of the same command once there is nothing left to do."""
    command = [sys.executable, str(ROOT / "scripts" / script), *options]
    marks = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=sys.stderr)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        marks.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return marks[0] - marks[1]


def size(folder: Path, pattern: str = "*") -> int:
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())


def measure(name: str, folder: Path, count: int) -> Row:
    """Makes `count` images of a data set below a new folder, and runs the two steps of its recipe on them."""
    raw, images, latents = (folder / step for step in ("raw", "images", "latents"))
    DATA_SETS[name](raw, count)
    published = size(raw)  # before the conversion puts an index of captions beside it
    convert = seconds("convert.py", f"source={name}", f"source.path={raw}", f"out={images}", *CONVERT)
    options = (f"images={images}", f"out={latents}", *PRECOMPUTE)
    precompute = seconds("precompute.py", "--config-name", "quickstart_precompute", *options)
    totals = (published, size(images, "*.mds"), size(latents, "*.mds"), convert, precompute)
    return Row(*(total / count for total in totals))


def main(arguments: Sequence[str] | None = None) -> None:
    """A line of JSON for each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder; all data sets take about 7 MB an image")
    parser.add_argument("--images", type=int, default=200, help="of each data set")
    parser.add_argument("--only", choices=DATA_SETS, nargs="*", default=list(DATA_SETS), help="data sets")
    options = parser.parse_args(arguments)
    if options.folder.exists():
        parser.error(f"{options.folder} is there already; name a new folder, or remove it")
    for name in options.only:
        row = measure(name, options.folder / name, options.image_files)
        print(json.dumps({"data_set": name, **row._asdict()}), flush=True)


if __name__ == "__main__":
    main()
