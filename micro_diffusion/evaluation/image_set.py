"""Tens of thousands of generated images as a folder that other programs read, made by any number of processes.

DIR/000000.png …    the images, one for each line of
DIR/prompts.jsonl   {"file_name": "000000.png", "prompt": "…"}
DIR/settings.json   how they were generated

Images are generated in parts of PART. A part's noise follows from the seed and the number of the part alone, so that
an image is the same whatever the device, the number of processes, and where generating was interrupted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from micro_diffusion.data.stream.images import runs
from micro_diffusion.files.json_text import parse_json
from micro_diffusion.files.whole_file import whole_file
from micro_diffusion.sampling.grid import to_pil
from micro_diffusion.sampling.image_file import make_folder, save_image

PART = 64
PROMPTS, SETTINGS = "prompts.jsonl", "settings.json"


def file_name(index: int) -> str:
    """Of an image."""
    return f"{index:06d}.png"


def part_seed(seed: int, part: int) -> int:
    """The seed of a part: the seed itself for the first, so that a small set has the images that `generate` makes."""
    if part == 0:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed}/part {part}".encode(), digest_size=7).digest(), "little")


def begin(folder: Path, prompts: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Make the folder with its prompts and settings, or find that it has the same.

    Raises:
        ValueError: when it holds images of other prompts or settings.
    """
    make_folder(folder)
    lines = [json.dumps({"file_name": file_name(i), "prompt": p}, ensure_ascii=False) for i, p in enumerate(prompts)]
    texts = {
        PROMPTS: "".join(f"{line}\n" for line in lines),
        SETTINGS: json.dumps(dict(settings), indent=2, sort_keys=True, ensure_ascii=False) + "\n",
    }
    for name, text in texts.items():
        path = folder / name
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            said = (
                _difference(parse_json(path.read_text(encoding="utf-8")), settings) if name == SETTINGS else "prompts"
            )
            raise ValueError(f"{folder} holds images of other {said}; name another folder, or remove this one")
        if not path.is_file():
            with whole_file(path) as unfinished:
                unfinished.write_text(text, encoding="utf-8")


def _difference(before: Any, settings: Mapping[str, Any]) -> str:
    now = json.loads(json.dumps(dict(settings)))
    keys = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    return "settings" if not keys else f"settings ({keys[0]} {before.get(keys[0])}, now {now.get(keys[0])})"


def generate_missing(
    folder: Path,
    prompts: Sequence[str],
    make: Callable[[Sequence[str], int], Tensor],
    *,
    seed: int,
    share: tuple[int, int] = (0, 1),
    on_part: Callable[[int], object] | None = None,
) -> int:
    """Generate what is not there yet.

    Args:
        folder: made by `begin`.
        prompts: of all images.
        make: captions and a seed -> uint8 (B, 3, H, W).
        seed: of the whole set.
        share: (k, n) makes the parts k, k + n, k + 2n, …, for one of n processes.
        on_part: called after each part with its number of images.

    Returns:
        How many images were generated.
    """
    made = 0
    for number, part in enumerate(runs(len(prompts), PART)):
        missing = [index for index in part if not (folder / file_name(index)).is_file()]
        if number % share[1] != share[0]:
            continue
        if missing:
            images = make([prompts[index] for index in part], part_seed(seed, number))
            for index in missing:
                with whole_file(folder / file_name(index)) as unfinished:
                    save_image(to_pil(images[index - part.start]), unfinished, {"prompt": prompts[index]})
            made += len(missing)
        if on_part is not None:
            on_part(len(part))
    return made


def read_set(folder: Path) -> tuple[list[str], list[str]]:
    """Files and prompts that a folder's `prompts.jsonl` names.

    Raises:
        FileNotFoundError: when there is no such list.
        ValueError: when it is none.
    """
    path = folder / PROMPTS
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {PROMPTS} in {folder}; name a folder that `micro-diffusion evaluate --out-images` has made, "
            'or write one {"file_name": "…", "prompt": "…"} a line'
        )
    names, prompts = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = parse_json(line)
            name, prompt = entry["file_name"], entry["prompt"]
            if not isinstance(name, str) or not isinstance(prompt, str) or Path(name).is_absolute() or ".." in name:
                raise TypeError(f"file_name {name!r}")
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"line {number} of {path} names no image and prompt ({error}); correct it") from error
        names.append(name)
        prompts.append(prompt)
    if not names:
        raise ValueError(f"{path} is empty; generate the images again")
    return names, prompts
