"""The built wheel holds what a user needs, declares what it imports, and generates in an environment of its own."""

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.test_layering import MODULES, imported_modules

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = {".py", ".safetensors", ".json", ".yaml", ".md"}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that the checkout stays clean."""
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("micro_diffusion", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, "dist"], cwd=source, check=True, capture_output=True)
    return next((source / "dist").glob("*.whl"))


@pytest.fixture(scope="session")
def requirements(wheel: Path) -> list[Requirement]:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        described = Parser().parsestr(archive.read(name).decode())
    assert SpecifierSet(described["Requires-Python"]) == SpecifierSet(">=3.10,<3.13")
    assert described["License-Expression"] == "Apache-2.0"
    return [Requirement(text) for text in described.get_all("Requires-Dist", [])]


def test_wheel_holds_code_and_bundled_files_and_nothing_else(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if ".dist-info/" not in name}
    sources = {path.relative_to(ROOT).as_posix() for path in MODULES.values()}
    bundled = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "micro_diffusion" / "bundled").rglob("*")
        if path.suffix in SHIPPED
    }
    configs = {f"micro_diffusion/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert shipped == sources | bundled | configs
    assert "micro_diffusion/configs/sampler/dpmpp_2m.yaml" in configs


def test_every_bundled_file_is_of_a_kind_that_ships():
    files = [
        path for path in (ROOT / "micro_diffusion").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    assert [path for path in files if path.suffix not in SHIPPED] == []


def test_imports_are_declared(requirements: list[Requirement]):
    """By the requirements, or by an extra, whose absence the importing module turns into a sentence."""

    def modules(wanted: list[Requirement]) -> set[str]:
        files = [file for one in wanted for file in metadata.files(one.name) or []]
        return {file.parts[0].split(".")[0] for file in files}

    always = modules([one for one in requirements if one.marker is None])
    extras = {one.name.replace("-", "_") for one in requirements if one.marker is not None}  # not all are installed
    known = {"micro_diffusion", "starlette", *sys.stdlib_module_names, *always, *extras}
    for path in [*MODULES.values(), ROOT / "train.py", *sorted((ROOT / "scripts").glob("*.py"))]:
        unknown = {name.split(".")[0] for name in imported_modules(path)} - known
        assert not unknown, f"{path} imports {unknown}, which setup.py does not ask for"


def test_lock_file_is_within_the_bounds(requirements: list[Requirement]):
    pins: dict[str, list[Requirement]] = {}
    for text in (ROOT / "requirements.lock").read_text().splitlines():
        if not text.startswith("#"):
            pin = Requirement(text)
            pins.setdefault(canonicalize_name(pin.name), []).append(pin)
    for wanted in requirements:
        if wanted.marker is None or wanted.marker.evaluate({"extra": "test"}):
            found = pins.get(canonicalize_name(wanted.name), [])
            assert found, f"requirements.lock lacks {wanted}; compile it again (its first lines say how)"
            for pin in found:
                version = next(iter(pin.specifier)).version
                assert wanted.specifier.contains(version), (
                    f"{pin} is not within {wanted}; compile requirements.lock again"
                )


def test_a_source_distribution_holds_the_configs(tmp_path: Path):
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "micro_diffusion").mkdir()
    (tmp_path / "micro_diffusion" / "__init__.py").touch()
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    build = "from setuptools import build_meta; print(build_meta.build_sdist('.'))"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml")} <= names


@pytest.mark.slow
def test_installed_wheel_generates_from_the_demo(wheel: Path, tmp_path: Path):
    """In an environment that has the heavy libraries by path, but the package from the wheel alone."""
    home = tmp_path / "environment"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    purelib = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    ).strip()
    Path(purelib, "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")

    where = [python, "-c", "import micro_diffusion; print(micro_diffusion.__file__)"]
    assert subprocess.check_output(where, cwd=tmp_path, text=True).startswith(purelib)

    command = [home / "bin" / "micro-diffusion", "generate", "demo", "a large red circle on a white background"]
    command += ["--seed", "0", "--steps", "2", "--sampler", "dpmpp_2m", "--out", "out.png"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
