"""Prints which room of the package imports which, as a table from left to right; exits with 1 at an import against it.

python scripts/import_graph.py              rooms in order, each with the rooms that it imports
python scripts/import_graph.py --mermaid    the same as a Mermaid flowchart
"""

from __future__ import annotations

import argparse
import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "micro_diffusion"

ORDER = (
    ("bundled",),
    ("batch", "bounds", "condition", "files", "machine", "layers"),
    ("text", "autoencoder"),
    ("data.keyed_random",),
    ("data.image",),
    ("data.format",),
    ("data.sources",),
    ("data.stream",),
    ("data.prepare",),
    ("diffusion",),
    ("backbone",),
    ("checkpoint",),
    ("representation",),
    ("released_weights", "tld_weights"),
    ("sampling",),
    ("saved_cascade",),
    ("generation",),
    ("training.seeded_random", "training.nodes", "training.times"),
    ("training.trainable", "training.lora"),
    ("training.auxiliary", "training.entanglement"),
    ("training.distributed",),
    ("training.optimizers",),
    ("training.reconstruction_metrics",),
    ("training.latent_diffusion", "training.autoencoder_training", "training.representation_training"),
    ("training.distillation", "training.evaluation_loss"),
    ("training.callbacks",),
    ("training.checkpoints",),
    ("training.config_checks",),
    ("training.build",),
    ("training.run_config",),
    ("evaluation",),
    ("export",),
    ("performance",),
    ("lab",),
    ("doctor",),
    ("serving",),
    ("cli",),
)
"""Rooms and single files; each may import from itself and from what stands in an earlier line."""

RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}

PROTOCOLS = {
    "micro_diffusion.batch",
    "micro_diffusion.condition",
    "micro_diffusion.text.encoder",
    "micro_diffusion.autoencoder.autoencoder",
    "micro_diffusion.diffusion.denoiser",
    "micro_diffusion.diffusion.image_conditioning",
    "micro_diffusion.backbone.backbone",
}
"""Type declarations, which every module may name."""


def module_name(path: Path, root: Path = ROOT) -> str:
    """micro_diffusion/a/b.py -> micro_diffusion.a.b."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported_modules(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, at its top or in a function.

    `from a import b` counts as `a.b` where that is a module of this package, as `a` otherwise.
    Raises ValueError for a relative import.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level or node.module is None:
                raise ValueError(f"{path}:{node.lineno} is a relative import; write the full module name")
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in MODULES else node.module)
    return found


def room(module: str) -> str | None:
    """The room that a module of the package belongs to, in the words of `ORDER`; None for one in no room."""
    parts = module.split(".")[1:]
    return next((name for depth in (1, 2) if (name := ".".join(parts[:depth])) in RANK), None)


def crossings(path: Path, module: str) -> list[str]:
    """Modules of this package that a file imports although they do not stand before it.

    Raises ValueError when one of them is in no room.
    """
    mine = room(module)
    theirs = [name for name in imported_modules(path) if name.startswith("micro_diffusion.") and name not in PROTOCOLS]
    for name in (module, *theirs):
        if room(name) is None and name.count(".") > 1:
            raise ValueError(f"{name} is in no room; give it a place in ORDER of scripts/import_graph.py")
    return [
        name
        for name in theirs
        if mine is not None and room(name) not in (None, mine) and RANK[room(name) or mine] >= RANK[mine]
    ]


def arrows() -> dict[str, dict[str, int]]:
    """Room -> the rooms that it imports, each with the number of such imports."""
    found: dict[str, dict[str, int]] = {name: {} for name in RANK}
    for module, path in MODULES.items():
        if (mine := room(module)) is None:
            continue
        for name in imported_modules(path):
            theirs = room(name) if name.startswith("micro_diffusion.") else None
            if theirs not in (None, mine):
                found[mine][theirs] = found[mine].get(theirs, 0) + 1
    return found


def main() -> int:
    """Print the graph."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mermaid", action="store_true", help="as a flowchart")
    options = parser.parse_args()
    if options.mermaid:
        print("flowchart LR")
        for mine, theirs in arrows().items():
            for name in theirs:
                print(f"    {name.replace('.', '_')}[{name}] --> {mine.replace('.', '_')}[{mine}]")
    else:
        for mine, theirs in arrows().items():
            print(f"{mine:32}{', '.join(sorted(theirs, key=RANK.__getitem__)) or '-'}")
    against = [(module, name) for module, path in MODULES.items() for name in crossings(path, module)]
    for module, name in against:
        print(f"against the order: {module} imports {name}", file=sys.stderr)
    return 1 if against else 0


if __name__ == "__main__":
    sys.exit(main())
