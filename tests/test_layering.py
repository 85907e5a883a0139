"""The architecture as tests: imports point left only, libraries stay in their package, the core needs torch alone."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.import_graph import MODULES, PACKAGE, PROTOCOLS, crossings, imported_modules, room

ROOT = Path(__file__).resolve().parents[1]

ONLY_IN = {"composer": "training", "streaming": "data"}
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}
TORCH_ALONE = {"batch", "condition", "layers", "diffusion", "backbone", "sampling"}
NEEDS_PILLOW = {f"micro_diffusion.sampling.{name}" for name in ("caption_font", "grid", "image_file")}


SOURCES = {module: path for module, path in MODULES.items() if path != PACKAGE / "__init__.py"}


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_left(module: str):
    assert crossings(SOURCES[module], module) == []


def test_a_right_pointing_import_is_found(tmp_path: Path):
    offender = tmp_path / "heun.py"
    offender.write_text("def f():\n    from micro_diffusion.training import build\n")
    assert crossings(offender, "micro_diffusion.sampling.heun") == ["micro_diffusion.training.build"]


def test_a_file_in_no_room_is_found(tmp_path: Path):
    (tmp_path / "new.py").write_text("")
    with pytest.raises(ValueError, match=r"micro_diffusion\.attic\.new is in no room"):
        crossings(tmp_path / "new.py", "micro_diffusion.attic.new")


def test_the_graph_is_printed():
    command = [sys.executable, "scripts/import_graph.py", "--mermaid"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "sampling[sampling] --> training_callbacks[training.callbacks]" in printed


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_protocols_import_protocols_only(name: str):
    own = {module for module in imported_modules(MODULES[name]) if module.startswith("micro_diffusion")}
    assert own <= PROTOCOLS


@pytest.mark.parametrize(("library", "home"), ONLY_IN.items())
def test_library_stays_in_its_package(library: str, home: str):
    entries = [ROOT / "train.py", *sorted((ROOT / "scripts").glob("*.py"))]
    users = [
        path.relative_to(ROOT)
        for path in [*SOURCES.values(), *entries]
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

small = {"micro_diffusion", "einops", "annotated_types"}
allowed = small.union(sys.stdlib_module_names, *map(modules, requirements("torch")))
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
    modules = [name for name in MODULES if name.count(".") and room(name) in TORCH_ALONE and name not in NEEDS_PILLOW]
    command = [sys.executable, "-W", "ignore", "-c", IMPORT_WITH_TORCH_ALONE, *modules]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


def test_data_commands_do_not_wait_for_the_trainer():
    code = (
        "import sys, scripts.convert, scripts.precompute, micro_diffusion.data.prepare.convert as c, "
        "micro_diffusion.data.prepare.precompute as p; sys.exit('composer' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT).returncode == 0
