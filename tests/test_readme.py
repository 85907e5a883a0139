"""The README keeps up with the repository."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def listed_paths() -> set[str]:
    """Paths of the annotated tree: two spaces a level, a name and what it is for."""
    found: set[str] = set()
    parents: list[str] = []
    tree = next(block for block in README.split("```") if "micro_diffusion/\n" in block)
    for line in filter(None, tree.splitlines()):
        depth = (len(line) - len(line.lstrip())) // 2
        parents[depth:] = line.split()[:1]
        found.add("".join(parents))
    return found


def test_the_tree_names_every_room_and_nothing_that_is_not_there():
    package = ROOT / "micro_diffusion"
    rooms = {f"{path.parent.relative_to(ROOT).as_posix()}/" for path in package.rglob("__init__.py")}
    modules = {path.relative_to(ROOT).as_posix() for path in package.glob("[!_]*.py")}
    assert rooms | modules <= listed_paths()
    assert [path for path in listed_paths() if not (ROOT / path).exists()] == []


def test_links_point_to_files():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []
