"""A folder for each class as a source, as in ImageNet and WikiArt: an image's caption is the name of its folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from micro_diffusion.data.image.file_names import files_below, kind
from micro_diffusion.data.sources.listed_files import Entry, ListedFiles


@dataclass(frozen=True, kw_only=True)
class ClassFolder(ListedFiles):
    """Images below one folder for each class, at any depth.

    Args:
        path: the folder that holds the folders of the classes.
        captions: 1.
        class_names: captions of the classes in the sorted order of their folders; None for the folders' own names.

    Raises:
        FileNotFoundError: when there is no such folder, or no folder in it.
        ValueError: when a class is empty, an image lies in no class, or there are as many names as not classes.
    """

    class_names: Sequence[str] | None = None

    def list_entries(self, root: Path) -> list[Entry]:
        """The images of all classes, class by class."""
        if not root.is_dir():
            raise FileNotFoundError(f"there is no folder {root}; set source.path to a folder with one for each class")
        inside = sorted(path for path in root.iterdir() if not path.name.startswith("."))
        folders = [path for path in inside if path.is_dir()]
        if not folders:
            raise FileNotFoundError(f"{root} holds no folders; set source.path to a folder with one for each class")
        if stray := [path for path in inside if path.is_file() and kind(path.name)]:
            raise ValueError(f"{stray[0]} lies in no folder of a class; move it into one, or out of {root}")
        names = [folder.name for folder in folders] if self.class_names is None else self.class_names
        if len(names) != len(folders):
            raise ValueError(
                f"class_names has {len(names)} names, but {root} holds {len(folders)} folders; give one for each, in "
                f"the order {folders[0].name} to {folders[-1].name}"
            )
        return [
            Entry(path.relative_to(root).as_posix(), (name,))
            for folder, name in zip(folders, names, strict=True)
            for path in _images(folder)
        ]


def _images(folder: Path) -> Iterator[Path]:
    """The images of a class, sorted. Raises ValueError when there is none."""
    found = sorted(path for path in files_below(folder) if kind(path.name) == "image")
    if not found:
        raise ValueError(f"the class folder {folder} holds no images; put some in, or remove it")
    yield from found
