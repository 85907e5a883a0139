"""Looks at somebody's folder of images: what can be used, what the captions are, and at which size to train."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from micro_diffusion.data.image.file_names import files_below, kind
from micro_diffusion.data.prepare.preparation import Preparation
from micro_diffusion.data.sources.image_folder import ImageFolder, words
from micro_diffusion.data.sources.source import Rejected

LOOKED_AT = 2000
"""Images that are opened; of more, evenly spaced ones."""
FEWEST = 16
"""Images; fewer are memorised, whatever is done."""
MEANINGFUL = 0.8
"""Share of file names with words in them from which on names serve as captions."""


@dataclass(frozen=True, kw_only=True)
class Folder:
    """What a folder holds.

    images: files that are images by their names. usable: share of those looked at that can be used.
    reasons: why others cannot, and how many. sides: shorter sides in pixels of the usable ones, sorted.
    without_text: where captions come from, as `ImageFolder` has it. captions: some of them.
    """

    path: str
    images: int
    usable: float
    reasons: Counter[str]
    sides: list[int]
    without_text: str
    captions: list[str]

    @property
    def speaks(self) -> bool:
        """Whether anything says what the images show."""
        return self.without_text != "nothing"

    @property
    def expected(self) -> int:
        """About how many images can be used."""
        return round(self.images * self.usable)


def look(path: str | Path) -> Folder:
    """Open a folder's images, or a sample of them.

    Raises:
        FileNotFoundError: when there is no such folder, or no image in it.
        ValueError: when it holds fewer images that can be used than training needs.
    """
    without_text = _where_captions_are(Path(path).expanduser())
    source = ImageFolder(path=str(path), without_text=without_text, copies="reject")  # pyright: ignore[reportArgumentType]
    entries = [entry for part in source.parts() for entry in part]
    chosen = entries[:: max(1, len(entries) // LOOKED_AT)]
    reasons: Counter[str] = Counter()
    sides: list[int] = []
    captions: list[str] = []
    for item in source.read(chosen):
        row = next(iter(Preparation().rows(item)), None)
        if row is None or isinstance(row, Rejected):
            reasons[row.reason if row else "unreadable image"] += 1
            continue
        sides.append(min(row["width"], row["height"]))
        captions.append(row["caption"])
    found = Folder(
        path=str(path),
        images=len(entries),
        usable=len(sides) / len(chosen),
        reasons=reasons,
        sides=sorted(sides),
        without_text=without_text,
        captions=captions[:: max(1, len(captions) // 8)][:8],
    )
    if found.expected < FEWEST:
        named = "; ".join(f"{reason}: {count}" for reason, count in reasons.items())
        raise ValueError(
            f"{path} has {found.expected} images that can be used{f' ({named})' if named else ''}, and training needs "
            f"at least {FEWEST}; add some"
        )
    return found


def _where_captions_are(root: Path) -> str:
    """Texts where there are any, or else names that say something, or else names of folders, or else nothing."""
    files = [path for path in files_below(root) if kind(path.name) == "image"] if root.is_dir() else []
    if not files:
        return "reject"  # the source says what is wrong
    if any(path.suffix.lower() in (".txt", ".caption", ".jsonl", ".csv") for path in files_below(root)):
        return "reject"
    named = sum(any(len(word) >= 3 for word in words(path.stem).split()) for path in files)
    if named >= MEANINGFUL * len(files) and len({words(path.stem) for path in files}) > 1:
        return "name"
    folders = {PurePosixPath(path.parent).name for path in files if path.parent != root}
    return "folder" if len(folders) > 1 else "nothing"
