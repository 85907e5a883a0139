"""docs/python.md, sampling.md, objectives.md and serving.md do what they say, on the bundled demo."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from micro_diffusion import cli
from micro_diffusion.checkpoint import choose_weights, load_backbone, save_weights
from micro_diffusion.files.run_folders import find_run

DOCS = Path(__file__).resolve().parents[1] / "docs"


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_page_from_python(tmp_path: Path):
    """In a process of its own, since it trains; the blocks follow one another."""
    found = blocks("python.md", "python")
    assert len(found) >= 8
    (tmp_path / "page.py").write_text("\n".join(found))
    result = subprocess.run(
        [sys.executable, "page.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(DOCS.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert {"circle.png", "half.png", "kept.png"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
def test_the_guidance_of_objectives():
    (block,) = blocks("objectives.md", "python")
    found: dict = {}
    exec(block, found)
    assert found["images"][0].size == (64, 64)


def test_the_fields_of_a_request_are_documented():
    from micro_diffusion.serving.requests import GenerateRequest

    page = (DOCS / "serving.md").read_text(encoding="utf-8")
    table = page[page.index("| field |") : page.index("- **Batches.**")]
    named = {name for row in table.splitlines() for name in re.findall(r"`([a-z_]+)`", row.split(" | ")[0])}
    assert named | {"prompt"} == set(GenerateRequest.model_fields)


@pytest.mark.slow
def test_the_commands_of_sampling(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text(
        "a large red circle on a white background\na small blue star on a black background\n"
    )
    mask = Image.new("L", (64, 64))
    mask.paste(255, (32, 0, 64, 64))
    mask.save("mask.png")
    early = shutil.copytree(find_run("demo"), "trained_models/early")
    state = {key: value * 0.9 for key, value in load_backbone(early).state_dict().items()}
    save_weights(early, state, choose_weights(early))
    commands = [line for block in blocks("sampling.md", "bash") for line in block.splitlines()]
    assert len(commands) >= 10
    for command in commands:
        words = shlex.split(command.split(" > ")[0])
        assert words[0] == "micro-diffusion"
        if words[1] == "evaluate":
            words += ["--count", "1", "--steps", "1"]
        capsys.readouterr()
        status, said = cli.main(words[1:]), capsys.readouterr()
        assert status == 0, said.err
        assert "--again" not in words or "equal to circle.png" in said.out
        if "--out" in words:
            assert Path(words[words.index("--out") + 1]).exists(), command
    assert Image.open("panorama.png").size == (128, 64)


def test_importing_the_package_imports_no_torch():
    code = "import sys, micro_diffusion; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=DOCS.parent).returncode == 0


def test_an_unknown_name_is_an_attribute_error():
    import micro_diffusion

    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = micro_diffusion.nothing
