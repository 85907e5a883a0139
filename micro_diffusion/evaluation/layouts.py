"""GenEval and DPG-Bench: images in the folders that their own evaluators read, and what these write.

GenEval (Ghosh et al. 2023, github.com/djghosh13/geneval), four images of each of 553 prompts:
    00000/metadata.jsonl    the prompt's line of evaluation_metadata.jsonl
    00000/samples/0000.png  …  0003.png
DPG-Bench (Hu et al. 2024, github.com/TencentQQGYLab/ELLA), four images of each of 1065 prompts:
    NAME.png                the four as a 2 × 2 grid, of the prompt in prompts/NAME.txt
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from micro_diffusion.evaluation.prompt_files import read_prompts
from micro_diffusion.files.json_text import parse_json
from micro_diffusion.files.whole_file import whole_file

IMAGES = 4
"""Of each prompt, in both benchmarks."""


class GenEval:
    """GenEval's layout, evaluator and results.

    Args:
        prompts: its evaluation_metadata.jsonl.

    Raises:
        ValueError: when a line has no prompt.
    """

    results = "geneval_results.jsonl"

    def __init__(self, prompts: Path) -> None:
        self.prompts = read_prompts(prompts)
        self.metadata = [line.strip() for line in prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
        if prompts.suffix != ".jsonl" or not all("tag" in parse_json(line) for line in self.metadata):
            raise ValueError(f"{prompts} has lines without a tag; give GenEval's evaluation_metadata.jsonl")

    def write(self, images: Sequence[Path], folder: Path) -> None:
        """Copy the images, IMAGES for each prompt in order, into the layout."""
        for index, line in enumerate(self.metadata):
            place = folder / f"{index:05d}"
            (place / "samples").mkdir(parents=True, exist_ok=True)
            (place / "metadata.jsonl").write_text(line, encoding="utf-8")
            for number, image in enumerate(images[index * IMAGES : (index + 1) * IMAGES]):
                with whole_file(place / "samples" / f"{number:04d}.png") as unfinished:
                    unfinished.write_bytes(image.read_bytes())

    def command(self, evaluator: Path, folder: Path, results: Path) -> list[str]:
        """What runs its evaluator, a checkout with the detector's files in its folder `models`."""
        script = _script(evaluator, "evaluation/evaluate_images.py", "github.com/djghosh13/geneval")
        return [
            sys.executable,
            str(script),
            str(folder),
            "--outfile",
            str(results),
            "--model-path",
            f"{evaluator}/models",
        ]

    def read(self, results: Path) -> dict[str, float]:
        """The share of correct images of each task, and `overall`, the mean over tasks.

        Raises:
            ValueError: when the file is no result of GenEval.
        """
        correct: defaultdict[str, list[bool]] = defaultdict(list)
        try:
            for line in results.read_text(encoding="utf-8").splitlines():
                entry = parse_json(line)
                correct[entry["tag"]].append(bool(entry["correct"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{results} holds no results of GenEval ({error}); run its evaluator again") from error
        if not correct:
            raise ValueError(f"{results} is empty; run GenEval's evaluator again")
        tasks = {tag: sum(right) / len(right) for tag, right in correct.items()}
        return {**tasks, "overall": sum(tasks.values()) / len(tasks)}


class DPG:
    """DPG-Bench's layout, evaluator and results.

    Args:
        prompts: its folder of prompts, one text file each.
    """

    results = "dpg_results.txt"

    def __init__(self, prompts: Path) -> None:
        if not prompts.is_dir():
            raise ValueError(f"{prompts} is no folder; give DPG-Bench's folder of prompts, with one .txt file each")
        self.prompts = read_prompts(prompts)
        self.names = [path.stem for path in sorted(prompts.glob("*.txt"))]

    def write(self, images: Sequence[Path], folder: Path) -> None:
        """Write the grids of IMAGES images for each prompt in order."""
        for index, name in enumerate(self.names):
            four = [Image.open(path).convert("RGB") for path in images[index * IMAGES : (index + 1) * IMAGES]]
            width, height = four[0].size
            grid = Image.new("RGB", (2 * width, 2 * height))
            for number, image in enumerate(four):
                grid.paste(image, (number % 2 * width, number // 2 * height))
            with whole_file(folder / f"{name}.png") as unfinished:
                grid.save(unfinished)

    def command(self, evaluator: Path, folder: Path, results: Path) -> list[str]:
        """What runs its evaluator, a checkout of ELLA."""
        script = _script(evaluator, "dpg_bench/compute_dpg_bench.py", "github.com/TencentQQGYLab/ELLA")
        with Image.open(next(folder.glob("*.png"))) as grid:
            side = str(grid.width // 2)
        options = ["--resolution", side, "--pic-num", str(IMAGES), "--res-path", str(results), "--vqa-model", "mplug"]
        return [sys.executable, str(script), "--image-root-path", str(folder), *options]

    def read(self, results: Path) -> dict[str, float]:
        """Percent of its first-level categories, and of all prompts as `overall`.

        Raises:
            ValueError: when the file is no result of DPG-Bench.
        """
        text = results.read_text(encoding="utf-8")
        score = re.findall(r"^DPG-Bench score: ([\d.]+)", text, re.MULTILINE)
        section = text.rpartition("L1 category scores:")[2].partition("L2 category scores:")[0]
        categories = re.findall(r"^\s+([\w -]+?): ([\d.]+)", section, re.MULTILINE)
        if not score or not categories:
            raise ValueError(f"{results} holds no scores of DPG-Bench; run its evaluator again")
        return {**{name: float(value) for name, value in categories}, "overall": float(score[-1])}


BENCHMARKS: dict[str, type[GenEval | DPG]] = {"geneval": GenEval, "dpg": DPG}


def run_evaluator(benchmark: GenEval | DPG, evaluator: Path, folder: Path, results: Path) -> None:
    """Run a benchmark's own evaluator on images in its layout.

    Raises:
        FileNotFoundError: when it is not there.
        ChildProcessError: when it fails; its last line is in the sentence.
    """
    command = benchmark.command(evaluator, folder, results)
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=evaluator)
    if ended.returncode:
        last = (ended.stderr.strip() or ended.stdout.strip() or "no output").splitlines()[-1]
        raise ChildProcessError(f"{Path(command[1]).name} ended with {ended.returncode} ({last}); run it by itself")


def _script(evaluator: Path, name: str, home: str) -> Path:
    path = evaluator / name
    if not path.is_file():
        raise FileNotFoundError(f"there is no {name} in {evaluator}; give --evaluator a checkout of {home}")
    return path
