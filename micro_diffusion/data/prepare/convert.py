"""Any source of captioned images -> a folder of MDS images."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from micro_diffusion.bounds import PositiveInt
from micro_diffusion.data.keyed_random import uniform
from micro_diffusion.data.prepare.engine import Engine, Processes
from micro_diffusion.data.prepare.fingerprint import Fingerprint
from micro_diffusion.data.prepare.output_folder import REJECTS, SOURCE_FILES, OutputFolder
from micro_diffusion.data.prepare.parts import writing
from micro_diffusion.data.prepare.preparation import COLUMNS, REPLACED, Preparation
from micro_diffusion.data.prepare.storage import Storage
from micro_diffusion.data.sources.source import Rejected, Source

log = logging.getLogger(__name__)


def convert(
    *,
    source: Source,
    out: str | Path,
    preparation: Preparation,
    engine: Engine | None = None,
    part_size: PositiveInt = 1024,
    size_limit: str = "64mb",
    update: bool = False,
) -> None:
    """Check and encode every image of a source, and write MDS images with the columns of `preparation.COLUMNS`.

    Images and captions that cannot be used are left out, counted by reason, and listed in `rejects.jsonl` beside the
    shards. The result does not depend on the engine. An interrupted conversion goes on with the parts that are missing.

    Args:
        source: where the images come from; a frozen dataclass.
        out: folder to make, or a URL such as s3://bucket/name. One that holds the same conversion, complete, is left
            alone.
        preparation: how images are checked and encoded.
        engine: who does the work; None for a process on each processor core.
        part_size: images of a part, about: what is done again after an interruption, and at least one shard.
        size_limit: of a shard file, such as "64mb".
        update: whether to make again, in a complete local folder, the parts whose files have changed since, or what the
            lists of the source say of them.

    Raises:
        FileExistsError: when `out` holds something else, or what the source read has changed since and `update` is not
            set.
        BlockingIOError: when another job is making `out`.
        ValueError: when not a single image can be used, or they have unequal numbers of captions.
    """
    if not is_dataclass(source) or isinstance(source, type):
        raise ValueError(f"the source {source!r} is no dataclass; make it one, so that its settings can be recorded")
    tasks = _tasks(source, part_size)
    made_from = Fingerprint.of(source, [task.source_parts for task in tasks])
    recipe = {
        "source": {"name": type(source).__name__, **asdict(source)},
        "images": len(source),
        SOURCE_FILES: made_from.digest,
        "preparation": asdict(preparation),
        "part_size": part_size,
        "size_limit": size_limit,
    }
    renew = partial(_renewed, source=source, preparation=preparation, recent={SOURCE_FILES: made_from.digest})
    with OutputFolder(out, recipe, renew=renew, made_from=made_from, update=update) as folder:
        whole = folder.begin()
        if whole is None:
            return
        work = PartConversion(source, preparation, folder.storage, size_limit, made_from.parts)
        missing = [task for task in tasks if task.number not in whole]
        share = preparation.expected(len(source)) / max(1, len(tasks))
        total, done = round(share * len(tasks)), round(share * len(whole))  # the rate leaves out what was there
        with tqdm(desc=f"convert {out}", total=total, initial=done, unit=" images", mininterval=1) as progress:
            for count in (engine or Processes()).run(work, missing):
                progress.update(count)
        samples, rejected, counted = folder.merge(len(tasks))
        _check_captions({number: key for part in counted for number, key in part.items()})
        if not samples:
            left = folder.discard()
            reasons = "; ".join(f"{reason}: {count}" for reason, count in rejected.items()) or "it is empty"
            raise ValueError(
                _empty_split(source, preparation)
                or f"the source gives no image that can be used ({reasons}); check its settings{left}"
            )
        folder.finish(samples=samples, rejected=dict(rejected))
    log.info("%s holds %d images", out, samples)
    for reason, count in rejected.most_common():
        done = "replaced" if reason.endswith(REPLACED) else "left out"
        log.warning("%s %d: %s (listed in %s/%s)", done, count, reason.removesuffix(REPLACED), out, REJECTS)


def _empty_split(source: Source, preparation: Preparation) -> str:
    """A sentence about a split to which no image belongs, with the nearest share that takes one; "" otherwise."""
    places = (
        []
        if preparation.split == "all"
        else [uniform(item.key) for part in source.parts() for item in source.read(part)]
    )
    if not places or any(map(preparation.takes, places)):
        return ""
    nearest = math.ceil(1000 * min(places) + 1e-6) if preparation.split == "eval" else math.floor(1000 * max(places))
    return (
        f"none of {len(places)} images is in the split {preparation.split} with "
        f"preparation.eval_fraction={preparation.eval_fraction}, which goes by their keys; set "
        f"preparation.eval_fraction={nearest / 1000} for both splits, or use more images"
    )


def _renewed(
    recipe: Mapping[str, Any], *, source: Source, preparation: Preparation, recent: Mapping[str, Any]
) -> Mapping[str, Any]:
    """A recipe in today's terms; earlier versions took `captions: first` for 1, had fewer settings, and no `recent`."""
    made = dict(recipe.get("source", {}))
    if made.get("captions") == "first":
        made["captions"] = 1
    settings = {**_defaults(source), **made} if made.get("name") == type(source).__name__ else made
    return {
        **recent,
        **recipe,
        "source": settings,
        "preparation": {**_defaults(preparation), **recipe.get("preparation", {})},
    }


def _defaults(instance: Any) -> dict[str, Any]:
    """The settings of a dataclass that have a default, by name."""
    return {field.name: field.default for field in fields(instance) if field.default is not MISSING}


class Task(NamedTuple):
    """A part of the data set to be made: its number, and the parts of the source that go into it."""

    number: int
    source_parts: Sequence[Any]


def _tasks(source: Source, part_size: int) -> list[Task]:
    """Runs of the source's parts with about `part_size` images each."""
    if part_size < 1:
        raise ValueError(f"part_size is {part_size}; set it to at least 1")
    parts = source.parts()
    run = max(1, round(part_size * len(parts) / max(len(parts), len(source))))
    return [Task(number, parts[start : start + run]) for number, start in enumerate(range(0, len(parts), run))]


@dataclass(frozen=True)
class PartConversion:
    """What a process does with a task; it can be sent to other processes and machines."""

    source: Source
    preparation: Preparation
    storage: Storage
    size_limit: str
    made_from: Sequence[str]

    def __call__(self, task: Task) -> int:
        """Write a part. Returns the number of images of the split."""
        images = 0
        captions: dict[str, str] = {}
        with writing(self.storage, task.number, columns=COLUMNS, size_limit=self.size_limit) as part:
            for source_part in task.source_parts:
                for item in self.source.read(source_part):
                    rows = list(self.preparation.rows(item))
                    for row in rows:
                        part.write(row)
                        if not isinstance(row, Rejected):
                            captions[str(1 + len(row["further_captions"]))] = row["key"]
                            _check_captions(captions)
                    images += bool(rows)
            part.statistics, part.made_from = captions, self.made_from[task.number]
        return images


def _check_captions(examples: Mapping[str, str]) -> None:
    """Raise ValueError when images have unequal numbers of captions; `examples` has an image's key for each."""
    if len(examples) > 1:
        (number, key), (other, other_key), *_ = examples.items()
        raise ValueError(
            f"the source gives image {key} {number} captions, but {other_key} {other}; let it give as many for each, "
            'with "" for one that is missing, and set another out'
        )
