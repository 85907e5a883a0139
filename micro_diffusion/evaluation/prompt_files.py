"""Prompts from the files in which they are found: plain text, JSON lines, COCO's annotations, folders of texts."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

from micro_diffusion.bounds import NonNegativeFloat, PositiveInt, Seed
from micro_diffusion.files.json_text import parse_json
from micro_diffusion.sampling.prompts import Prompts

KEYS = ("prompt", "caption", "text")
"""Under which a JSON line may have its prompt."""


def read_prompts(path: Path, *, count: int | None = None, seed: int = 0) -> list[str]:
    """The prompts of a file.

    Args:
        path: `.txt` with one a line; `.jsonl` with an object a line that has one of KEYS; `.json`, annotations of
            COCO's captions; or a folder of `.txt` files with one prompt each, as DPG-Bench has.
        count: how many; the first of a list, but of COCO's annotations a random choice, see `coco_prompts`.
        seed: of that choice.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it holds none, or fewer than `count`.
    """
    if path.is_dir():
        prompts = [file.read_text(encoding="utf-8").strip() for file in sorted(path.glob("*.txt"))]
    elif not path.is_file():
        raise FileNotFoundError(f"there is no file of prompts {path}; give a .txt, .jsonl or .json file")
    elif path.suffix == ".json":
        return coco_prompts(path, count=count, seed=seed)
    else:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        prompts = (
            [_of_line(line, number, path) for number, line in enumerate(lines, 1)] if path.suffix == ".jsonl" else lines
        )
    return _checked(prompts, count, path)


def coco_prompts(path: Path, *, count: int | None, seed: int) -> list[str]:
    """One caption each of `count` random images of COCO.

    Images, in the order of their ids, are chosen without repetition, then one of the captions of each, both by
    Python's `random.Random(seed)`; so the same arguments give the same prompts everywhere.

    Raises:
        ValueError: when the file holds no captions of COCO, or of fewer images.
    """
    captions: defaultdict[int, list[tuple[int, str]]] = defaultdict(list)
    try:
        for annotation in parse_json(path.read_bytes())["annotations"]:
            captions[int(annotation["image_id"])].append((int(annotation["id"]), str(annotation["caption"])))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no captions of COCO ({error}); give captions_val2014.json") from error
    images = _checked(sorted(captions), None, path)
    count = len(images) if count is None else count
    if count > len(images):
        raise ValueError(f"{path} has captions of {len(images)} images, fewer than {count}; lower the number")
    choice = random.Random(seed)
    return [" ".join(choice.choice(sorted(captions[image]))[1].split()) for image in choice.sample(images, count)]


def prompts_of_file(
    *, path: str, count: PositiveInt, guidance_scale: NonNegativeFloat = 5.0, seed: Seed = 0
) -> Prompts:
    """Prompts of a file as a config names them, with how to generate their images.

    Args:
        path: see `read_prompts`.
        count: how many.
        guidance_scale: 0 unconditional, 1 conditional, above 1 guided.
        seed: fixes the noise.
    """
    return Prompts(captions=read_prompts(Path(path), count=count), guidance_scale=guidance_scale, seed=seed)


def prompts_of_images(
    *, path: str, count: PositiveInt, guidance_scale: NonNegativeFloat = 5.0, seed: Seed = 0
) -> Prompts:
    """The first captions of a folder of MDS images, as `scripts/convert.py` makes it, with how to generate from them.

    Args:
        path: the folder.
        count: how many, of images in their order; the first of each.
        guidance_scale: 0 unconditional, 1 conditional, above 1 guided.
        seed: fixes the noise.

    Raises:
        FileNotFoundError: when there is no such folder.
        ValueError: when it has fewer images.
    """
    from micro_diffusion.data.image.crops import CentreSquare
    from micro_diffusion.data.stream.images import ImageDataset

    images = ImageDataset(path=path, resolutions=[1], cut=CentreSquare())
    captions = _checked([images.captions(i)[0] for i in range(min(count, len(images)))], count, Path(path))
    return Prompts(captions=captions, guidance_scale=guidance_scale, seed=seed)


def _of_line(line: str, number: int, path: Path) -> str:
    try:
        entry = parse_json(line)
        prompt = next(entry[key] for key in KEYS if key in entry)
        if not isinstance(prompt, str):
            raise TypeError("it is no text")
    except (ValueError, TypeError, StopIteration) as error:
        raise ValueError(f'line {number} of {path} has no prompt; write it as {{"prompt": "…"}}') from error
    return prompt


def _checked(prompts: list, count: int | None, path: Path) -> list:
    if not prompts or len(prompts) < (count or 1):
        raise ValueError(f"{path} has {len(prompts)} prompts, fewer than {count or 1}; add some, or lower the number")
    return prompts[:count]
