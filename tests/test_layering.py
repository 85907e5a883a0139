"""The architecture as tests: imports point left only, libraries stay in their package, the core needs torch alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "micro_diffusion"

# A module may import from its own package and from packages of a smaller number.
RANK = {
    "bundled": 0,
    "batch": 0,
    "precision": 0,
    "provenance": 0,
    "whole_file": 0,
    "file_lock": 0,
    "json_text": 0,
    "parent_death": 0,
    "tensor_memory": 0,
    "torch_archive": 1,
    "weight_file": 1,
    "data": 2,
    "text": 2,
    "autoencoder": 2,
    "diffusion": 3,
    "backbone": 4,
    "checkpoint": 5,
    "released_weights": 6,
    "sampling": 7,
    "training": 8,
    "evaluation": 9,
    "performance": 10,
    "doctor": 11,
    "cli": 12,
}

# Type declarations without code of their own: every module may name them.
PROTOCOLS = {
    "micro_diffusion.batch",
    "micro_diffusion.text.encoder",
    "micro_diffusion.autoencoder.autoencoder",
    "micro_diffusion.diffusion.denoiser",
    "micro_diffusion.diffusion.objective",
    "micro_diffusion.backbone.backbone",
}

ONLY_IN = {"composer": "training", "streaming": "data"}
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}
TORCH_ALONE = {"batch", "diffusion", "backbone", "sampling"}
DRAWS_WITH_PILLOW = {"micro_diffusion.sampling.grid", "micro_diffusion.sampling.picture_file"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, at its top or in a function.

    `from a import b` counts as `a.b` where that is a module of this package, as `a` otherwise.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import; write the full module name"
            assert node.module is not None
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in MODULES else node.module)
    return found


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
SOURCES = [path for path in MODULES.values() if path != PACKAGE / "__init__.py"]


def room(module: str) -> str:
    """The package or top-level module within micro_diffusion that a module belongs to."""
    return module.split(".")[1]


def crossings(path: Path) -> list[str]:
    """Modules of this package that a file imports although they are not to its left."""
    mine = room(module_name(path))
    theirs = [name for name in imported_modules(path) if name.startswith("micro_diffusion.") and name not in PROTOCOLS]
    return [name for name in theirs if room(name) != mine and RANK[room(name)] >= RANK[mine]]


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_point_left(path: Path):
    assert room(module_name(path)) in RANK, f"{path} is in no layer; give its package a rank and a place in the README"
    assert crossings(path) == []


def test_a_right_pointing_import_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    offender = tmp_path / "micro_diffusion" / "sampling" / "heun.py"
    offender.parent.mkdir(parents=True)
    offender.write_text("def f():\n    from micro_diffusion.training import build\n")
    assert [room(name) for name in crossings(offender)] == ["training"]


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_protocols_import_protocols_only(name: str):
    own = {module for module in imported_modules(MODULES[name]) if module.startswith("micro_diffusion")}
    assert own <= PROTOCOLS


@pytest.mark.parametrize(("library", "home"), ONLY_IN.items())
def test_library_stays_in_its_package(library: str, home: str):
    entries = [ROOT / "train.py", *sorted((ROOT / "scripts").glob("*.py"))]
    users = [
        path.relative_to(ROOT)
        for path in [*SOURCES, *entries]
        if path.exists() and any(name.split(".")[0] == library for name in imported_modules(path))
    ]
    assert [path for path in users if path.parts[:2] != ("micro_diffusion", home)] == []


def test_no_catch_all_names_and_no_notebooks():
    tracked = [
        path.relative_to(ROOT)
        for folder in ("micro_diffusion", "scripts", "tests", "configs", "docs")
        for path in (ROOT / folder).rglob("*")
    ]
    assert [path for path in tracked if path.stem in FORBIDDEN_NAMES or path.suffix == ".ipynb"] == []


IMPORT_WITH_TORCH_ALONE = """
import importlib, importlib.metadata as metadata, re, sys

def requirements(distribution):
    '''The distribution and everything that it requires, as normalised names.'''
    found, queue = set(), [distribution]
    while queue:
        name = re.sub(r"[-_.]+", "-", queue.pop()).lower()
        if name in found:
            continue
        found.add(name)
        try:
            declared = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        queue += [re.match(r"[\\w.-]+", text)[0] for text in declared if "extra ==" not in text]
    return found

def modules(distribution):
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        return set()
    return {file.parts[0].split(".")[0] for file in files}

allowed = {"micro_diffusion", *sys.stdlib_module_names}.union(*map(modules, requirements("torch")))
assert allowed.isdisjoint({"composer", "streaming", "hydra", "diffusers", "numpy"})

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in allowed:
            raise ModuleNotFoundError(f"No module named {name!r}: it is not part of torch", name=name)

sys.meta_path.insert(0, Block())
for module in sys.argv[1:]:
    importlib.import_module(module)
"""


def test_core_imports_with_torch_alone():
    modules = [
        name for name in MODULES if name.count(".") and room(name) in TORCH_ALONE and name not in DRAWS_WITH_PILLOW
    ]
    command = [sys.executable, "-W", "ignore", "-c", IMPORT_WITH_TORCH_ALONE, *modules]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
