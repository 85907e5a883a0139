"""TextCaps (Sidorov et al. 2020, https://textvqa.org/textcaps) as a source."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from micro_diffusion.data.sources.listed_files import Entry, ListedFiles, read_json

IMAGES = "train_images"  # of OpenImages, those of the validation split too
LAYOUT = (
    "source.path should hold TextCaps_0.1_train.json, TextCaps_0.1_val.json and train_images/*.jpg, which "
    "scripts/datasets/textcaps.sh gets"
)


@dataclass(frozen=True, kw_only=True)
class TextCaps(ListedFiles):
    """Images of OpenImages with captions that mention the text in them, about five each.

    The hub's form, parquet files with `reference_strs`, is read by the configuration `textcaps_hub`.

    Args:
        path: folder that holds `TextCaps_0.1_SPLIT.json` and the images, `train_images/IMAGE_ID.jpg`.
        split: "train" or "val"; both have their images in train_images.
        captions: of an image, how many are taken, from the first.

    Raises:
        FileNotFoundError: when the captions are not there.
        ValueError: when the file holds something else.
    """

    split: Literal["train", "val"] = "train"

    def list_entries(self, root: Path) -> list[Entry]:
        """The images of the split."""
        path = root / f"TextCaps_0.1_{self.split}.json"
        content = read_json(path, layout=LAYOUT)
        captions: defaultdict[str, list[Any]] = defaultdict(list)
        try:
            for row in content["data"]:
                captions[row["image_id"]].append(row["caption_str"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} holds no captions of TextCaps ({error!r} in it); {LAYOUT}") from error
        return [Entry(f"{image}.jpg", tuple(texts)) for image, texts in captions.items()]

    def images(self, root: Path) -> Path:
        """The folder of OpenImages images."""
        return root / IMAGES
