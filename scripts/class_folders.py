"""Images of shapes in a folder for each class, as somebody's own images might lie: source=class_folder reads them.

python scripts/class_folders.py data/ldm/classes

A class is a shape in a family of colours, such as "warm star". Colour, size, place and background vary within it.
"""

import argparse
from pathlib import Path

from PIL import Image

from micro_diffusion.data.sources.shape_scenes import Scene, render, scene
from micro_diffusion.files.whole_file import whole_folder

WARM = {"red", "yellow", "orange", "pink"}


def class_of(drawn: Scene) -> str:
    """The class of a scene with one object."""
    (item,) = drawn.description.objects
    return f"{'warm' if item.colour in WARM else 'cool'} {item.shape}"


def write(folder: Path, *, count: int, side: int, seed: int) -> None:
    """Draw `count` images of `side` pixels below the folder, which is there as a whole or not at all."""
    with whole_folder(folder) as unfinished:
        for index in range(count):
            drawn = scene(seed, index, pairs=0.0, held_out="include")
            path = unfinished / class_of(drawn) / f"{index:05d}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(render(drawn, side)).save(path)


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="to make")
    parser.add_argument("--count", type=int, default=8000, help="images of all classes (default: 8000)")
    parser.add_argument("--side", type=int, default=32, help="pixels (default: 32)")
    parser.add_argument("--seed", type=int, default=0, help="of the drawings (default: 0)")
    options = parser.parse_args()
    write(options.folder, count=options.count, side=options.side, seed=options.seed)


if __name__ == "__main__":
    main()
