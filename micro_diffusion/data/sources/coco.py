"""COCO 2014 (Lin et al. 2014, https://cocodataset.org) as a source."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from micro_diffusion.bounds import PositiveInt
from micro_diffusion.data.sources.listed_files import Entry, ListedFiles, read_json

LAYOUT = (
    "source.path should hold val2014/COCO_val2014_*.jpg and annotations/captions_val2014.json, which "
    "scripts/datasets/coco.sh gets"
)


@dataclass(frozen=True, kw_only=True)
class Coco(ListedFiles):
    """Images of COCO with the captions that people wrote, about five each.

    Args:
        path: folder that holds the folder of images and `annotations/captions_SPLIT.json`.
        split: of COCO, such as "val2014" or "train2014".
        captions: of an image, how many are taken; the first alone, as evaluations do, by default.
        limit: of images, taken in the order of the annotations; None for all.

    Raises:
        FileNotFoundError: when the annotations are not there.
        ValueError: when they are no annotations of captions.
    """

    split: str = "val2014"
    limit: PositiveInt | None = None

    def list_entries(self, root: Path) -> list[Entry]:
        """The images of the split."""
        path = root / "annotations" / f"captions_{self.split}.json"
        content = read_json(path, layout=LAYOUT)
        captions: defaultdict[int, list[Any]] = defaultdict(list)
        try:
            for annotation in content["annotations"]:
                captions[annotation["image_id"]].append(annotation["caption"])
            images = [(image["id"], image["file_name"]) for image in content["images"]]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} holds no captions of COCO ({error!r} in it); {LAYOUT}") from error
        return [Entry(name, tuple(captions[number])) for number, name in images[: self.limit]]

    def images(self, root: Path) -> Path:
        """The folder of the split."""
        return root / self.split
