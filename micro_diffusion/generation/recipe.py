"""How images were generated, as a PNG keeps it, so that they can be generated again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from micro_diffusion.checkpoint import WEIGHT_FILES, Run, Weights
from micro_diffusion.machine.precision import Precision
from micro_diffusion.sampling.image_file import TEXT_ENTRY
from micro_diffusion.sampling.start import Between

DIGEST_BYTES = 1 << 20
"""Read of each end of a file of weights, which takes no time and tells them from all others."""


@dataclass(frozen=True)
class Recipe:
    """All that B images follow from, given the run.

    run: its folder or name, as `find_run` takes it. weights: "ema" or "raw". digest: of these weights' file.
    prompts: B texts or points between two. seeds: B pairs (seed, index) or points between two. negative_prompts: B
    texts, "" for none. sampler: an option of configs/sampler, None for the run's own; levels: likewise of
    configs/levels; configs: the folder of another configs/sampler and configs/levels. weaker: the run that guidance
    leads away from; weaker_digest: of its weights' file. resolution: (H, W) in pixels. image, mask: files. region: its
    name, in place of a mask. strength, resamplings: for an image without training on it. extend: such as right=96, what
    is added to the image. sharpness, brightness: see `LatentEdit`.
    """

    run: str
    weights: Weights
    digest: str
    prompts: tuple[str | Between, ...]
    seeds: tuple[Any, ...]
    steps: int
    guidance_scale: float
    resolution: tuple[int, int]
    negative_prompts: tuple[str, ...] = ()
    guidance_interval: tuple[float, float] | None = None
    guidance_rescale: float | None = None
    sampler: str | None = None
    levels: str | None = None
    weaker: str | None = None
    weaker_digest: str | None = None
    configs: str | None = None
    precision: Precision = "auto"
    image: str | None = None
    mask: str | None = None
    region: str | None = None
    strength: float | None = None
    resamplings: int | None = None
    extend: str | None = None
    sharpness: float | None = None
    brightness: float | None = None

    def only(self, index: int) -> Recipe:
        """That of one of the images."""
        negative = self.negative_prompts[index : index + 1]
        return dataclasses.replace(
            self, prompts=(self.prompts[index],), seeds=(self.seeds[index],), negative_prompts=negative
        )

    def described(self) -> dict[str, Any]:
        """As JSON values, without what is not used."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if not any(self.negative_prompts):
            values.pop("negative_prompts")
        return {name: _plain(value) for name, value in values.items() if value is not None}


def read_recipe(path: str | Path) -> dict[str, Any]:
    """What a PNG or GIF of this package says about itself.

    Raises:
        ValueError: when the file is no image, or says nothing.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            text = getattr(image, "text", {}).get(TEXT_ENTRY) or image.info.get("comment")
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"{path} is no image; give a PNG or GIF that micro-diffusion has made") from error
    if text is None:
        raise ValueError(f"{path} says nothing about how it was made; give a PNG or GIF that micro-diffusion has made")
    try:
        described = json.loads(text)
    except ValueError as error:  # UnicodeDecodeError too
        raise ValueError(f"what {path} says about itself is no JSON; give the file as it was made") from error
    if not isinstance(described, dict):
        raise ValueError(f"what {path} says about itself is no recipe; give the file as it was made")
    return described


def recipe_of(described: Mapping[str, Any], source: str | Path) -> Recipe:
    """The recipe that `read_recipe` has read.

    Raises:
        ValueError: when it lacks something, as of an evaluation or an earlier version.
    """
    known = {field.name for field in dataclasses.fields(Recipe)}
    try:
        values = {name: _restored(value) for name, value in described.items() if name in known}
        recipe = Recipe(**values)
        if not recipe.prompts or len(recipe.prompts) != len(recipe.seeds):
            raise ValueError(f"{len(recipe.prompts)} prompts and {len(recipe.seeds)} seeds")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{source} does not say all that its image follows from ({error}); it can be shown, but not made again"
        ) from error
    return recipe


def weights_file_digest(run: Run) -> str:
    """That of the weights that a run was loaded with."""
    return file_digest(run.folder / WEIGHT_FILES[run.weights])


def written(described: Mapping[str, Any]) -> str:
    """A recipe for people, a line for each of its values."""
    return "\n".join(f"{name}: {_text(name, value)}" for name, value in described.items())


def file_digest(path: str | Path) -> str:
    """64 bits of a file's size, beginning and end, in hexadecimal."""
    size = Path(path).stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=8)
    with Path(path).open("rb") as file:
        digest.update(file.read(DIGEST_BYTES))
        file.seek(max(0, size - DIGEST_BYTES))
        digest.update(file.read())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Between):
        return {"from": _plain(value.first), "to": _plain(value.second), "share": value.share}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        return Between(_restored(value["from"]), _restored(value["to"]), value["share"])
    return tuple(_restored(item) for item in value) if isinstance(value, list) else value


def _text(name: str, value: Any) -> str:
    """A value of a recipe, several below one another."""
    if isinstance(value, dict) and value.keys() == {"from", "to", "share"}:
        return f"{value['share']:.0%} from {_text(name, value['from'])} to {_text(name, value['to'])}"
    if not isinstance(value, list):
        return str(value)
    if name == "resolution":
        return "×".join(map(str, value))
    if name == "seeds" and len(value) == 2 and not isinstance(value[0], list | dict):
        return str(value[0]) if value[1] == 0 else f"{value[0]}, image {value[1]}"
    texts = [_text(name, one) for one in value]
    return texts[0] if len(texts) == 1 else "".join(f"\n  {one}" for one in texts)
