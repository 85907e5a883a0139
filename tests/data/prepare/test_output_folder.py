"""Data sets made in parts: what a kill, a full disk or a second job leaves."""

import errno
import json
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
from PIL import Image
from streaming import LocalDataset

from micro_diffusion.data.prepare.convert import convert
from micro_diffusion.data.prepare.engine import Processes
from micro_diffusion.data.prepare.output_folder import OutputFolder
from micro_diffusion.data.prepare.parts import whole_parts, writing
from micro_diffusion.data.prepare.preparation import Preparation
from micro_diffusion.data.prepare.storage import LocalStorage
from micro_diffusion.data.sources.source import CaptionedImage, Rejected

PARTS = 6


@dataclass(frozen=True, kw_only=True)
class Growing:
    """Noise in parts of four images, each part larger than the one before, and every third part with a bad one."""

    reads: str = os.devnull
    seconds: float = 0.0

    def __len__(self) -> int:
        return 4 * PARTS + 2

    def parts(self) -> Sequence[int]:
        return range(PARTS)

    def read(self, part: int) -> Iterator[CaptionedImage | Rejected]:
        with open(self.reads, "a") as log:
            log.write(f"{part}\n")
        for i in range(4):
            time.sleep(self.seconds)
            side = 16 * (part + 1)
            noise = Image.frombytes("L", (side, side), Random(i).randbytes(side * side))
            yield CaptionedImage(noise, f"noise {i}", f"{part}-{i}")
        if part % 3 == 0:
            yield Rejected(f"{part}-bad", "out of order")


def run(out: Path, count: int = 1, **source) -> None:
    convert(
        source=Growing(**source),
        out=out,
        preparation=Preparation(),
        engine=Processes(count=count),
        part_size=4,
        size_limit="4kb",
    )


def content(folder: Path, *, without: str = "") -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != without
    }


def forked(work: Callable[[], None]) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def whole(out: Path) -> set[int]:
    return whole_parts(LocalStorage(out.with_name(out.name + ".unfinished")))


@pytest.mark.parametrize("count", [1, 2])
def test_a_killed_conversion_goes_on_and_ends_byte_for_byte_the_same(tmp_path, count):
    log = tmp_path / "reads"
    source = {"reads": str(log), "seconds": 0.02}
    run(tmp_path / "undisturbed", **source)
    log.unlink()
    out = tmp_path / "out"
    job = forked(lambda: run(out, count, **source))
    wait_until(lambda: len(whole(out)) >= 2)
    os.kill(job.pid, signal.SIGKILL)
    job.join()
    kept = whole(out)
    assert not out.exists() and 2 <= len(kept) < PARTS
    begun = [int(line) for line in log.read_text().split()]
    run(out, count, **source)
    again = [int(line) for line in log.read_text().split()][len(begun) :]
    assert not kept & set(again)
    assert kept | set(again) == set(range(PARTS))
    assert content(out) == content(tmp_path / "undisturbed")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "reads", "undisturbed"]


def test_parts_come_in_order_with_their_rejects(tmp_path):
    run(tmp_path / "out", 2)
    dataset = LocalDataset(str(tmp_path / "out"))
    assert [dataset[i]["key"] for i in range(len(dataset))] == [f"{p}-{i}" for p in range(PARTS) for i in range(4)]
    rejects = (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in rejects] == ["0-bad", "3-bad"]


def test_a_full_disk_is_named_and_what_is_finished_stays(tmp_path):
    run(tmp_path / "undisturbed")
    out, said = tmp_path / "out", tmp_path / "said"

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
        try:
            run(out)
        except OSError as error:
            said.write_text(str(error))

    forked(limited).join()
    assert "there is no room left for" in said.read_text()
    assert "make room and give the same command again, which keeps the parts that are finished" in said.read_text()
    assert 0 < len(whole(out)) < PARTS
    assert not list(out.with_name("out.unfinished").glob("writing-*"))
    run(out)
    assert content(out) == content(tmp_path / "undisturbed")


@pytest.mark.parametrize("step", ["micro_diffusion.data.prepare.output_folder._locked", "tempfile.mkdtemp"])
def test_a_disk_that_is_full_from_the_start_is_named(tmp_path, monkeypatch, step):
    def no_room(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(step, no_room)
    with pytest.raises(OSError, match=f"there is no room left for {tmp_path}.* \\(No space .*\\); make room and give"):
        run(tmp_path / "out")


def test_a_second_job_on_the_same_folder_is_refused_and_the_first_undisturbed(tmp_path):
    run(tmp_path / "undisturbed", seconds=0.03)
    out = tmp_path / "out"
    job = forked(lambda: run(out, seconds=0.03))
    wait_until(lambda: len(whole(out)) >= 1)
    with pytest.raises(BlockingIOError, match=rf"is being made by process {job.pid} on .*; wait for it"):
        run(out, seconds=0.03)
    job.join()
    assert job.exitcode == 0
    assert content(out) == content(tmp_path / "undisturbed")


def test_a_file_system_without_locks_is_no_second_job(tmp_path, monkeypatch):
    def without(*args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", without)
    with pytest.raises(OSError, match=r"out\.lock cannot be locked \(.*No locks .*\); set out to a folder"):
        run(tmp_path / "out")


def interrupted(out: Path, recipe: dict) -> None:
    """What a job leaves that was killed after its first part."""
    folder = OutputFolder(out, recipe)
    folder.begin()
    with writing(folder.storage, 0, columns={"n": "int"}, size_limit="1mb") as part:
        part.write({"n": 1})
    folder.__exit__(None, None, None)


def test_parts_of_another_recipe_are_not_mixed_in(tmp_path):
    out = tmp_path / "out"
    interrupted(out, {"seed": 0})
    with pytest.raises(FileExistsError, match=r"out\.unfinished was made with other settings \(seed 0, not 1\)"):
        OutputFolder(out, {"seed": 1}).begin()
    with OutputFolder(out, {"seed": 0}) as folder:
        assert folder.begin() == {0}


def test_the_settings_that_differ_are_named_with_both_values(tmp_path):
    made = {"source": {"name": "Parquet", "path": "a", "captions": 1}, "split": "train"}
    interrupted(tmp_path / "out", made)
    for changed, said in (
        ({**made, "source": {**made["source"], "captions": 5}}, r"\(source\.captions 1, not 5\)"),
        ({**made, "source": {"name": "Coco", "path": "b"}, "split": None, "new": [1, 2]}, r".*; 1 more differ\)"),
        ({**made, "split": ["eval", "train"]}, r'\(split "train", not \["eval", "train"\]\)'),
    ):
        with pytest.raises(FileExistsError, match=f"made with other settings {said}; remove it or set another out"):
            OutputFolder(tmp_path / "out", changed).begin()


def test_settings_that_mean_the_same_are_the_same(tmp_path):
    interrupted(tmp_path / "out", {"source": {"path": "a/", "field": None, "caption": ["text"]}, "empty": {}})
    with OutputFolder(tmp_path / "out", {"source": {"path": "a", "caption": "text"}, "limit": None}) as folder:
        assert folder.begin() == {0}


def test_a_complete_data_set_of_an_earlier_version_is_understood(tmp_path):
    def renewed(recipe):
        return {"images_index": "a", **recipe}

    out = tmp_path / "out"
    interrupted(out, {"seed": 0})
    with pytest.raises(FileExistsError, match=r'\(images_index null, not "a"\)'):  # parts of two kinds might be mixed
        OutputFolder(out, {"seed": 0, "images_index": "a"}, renew=renewed).begin()
    with OutputFolder(out, {"seed": 0}) as folder:
        folder.begin()
        folder.merge(1)
        folder.finish(samples=1)
    assert OutputFolder(out, {"seed": 0, "images_index": "a"}, renew=renewed).begin() is None
    with pytest.raises(FileExistsError, match=r"\(seed 0, not 1\)"):
        OutputFolder(out, {"seed": 1, "images_index": "a"}, renew=renewed).begin()


def test_a_kill_before_the_last_renaming_costs_nothing(tmp_path, monkeypatch):
    out = tmp_path / "out"
    interrupted(out, {"seed": 0})
    with monkeypatch.context() as patch, OutputFolder(out, {"seed": 0}) as folder:
        patch.setattr(folder, "_rename", lambda: None)
        folder.begin()
        folder.merge(1)
        folder.finish(samples=1)
    assert not out.exists()
    with OutputFolder(out, {"seed": 0}) as folder:
        assert folder.begin() is None
    assert LocalDataset(str(out))[0]["n"] == 1
    assert sorted(path.name for path in out.iterdir()) == [
        "index.json",
        "metadata.json",
        "rejects.jsonl",
        "shard.00000.00000.mds",
    ]
