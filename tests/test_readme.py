"""The README keeps up with the repository."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def listed_files() -> set[str]:
    """Paths of the annotated tree: two spaces a level; names, side by side, stand before a gap of three spaces."""
    found: set[str] = set()
    parents: list[str] = []
    for line in filter(None, README.split("## Tree")[1].split("```")[1].splitlines()):
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.split(r"\s{3,}", line.strip())[0].split()
        parents[depth:] = names[:1]
        found.update("".join(parents[:depth]) + name for name in names)
    return found


def test_the_tree_names_every_module_and_nothing_else():
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "micro_diffusion").rglob("[!_]*.py")}
    assert {path for path in listed_files() if path.startswith("micro_diffusion/") and path.endswith(".py")} == modules


def test_links_point_to_files():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []
