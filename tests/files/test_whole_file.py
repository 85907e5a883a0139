"""A file is whole or what it was before, whatever ends the writing."""

import os
import signal
import sys

import pytest

from micro_diffusion.files.whole_file import whole_file


def test_the_new_content_takes_the_name_at_the_end(tmp_path):
    path = tmp_path / "new" / "a.pt"
    with whole_file(path) as unfinished:
        unfinished.write_text("new")
        assert not path.exists() and unfinished.suffix == ".pt"
    assert path.read_text() == "new" and [p.name for p in path.parent.iterdir()] == ["a.pt"]


def test_an_error_leaves_the_old_content_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")

    def write():
        with whole_file(path) as unfinished:
            unfinished.write_text("ne")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write()
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_a_kill_leaves_the_old_content(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    child = os.fork()
    if not child:
        with whole_file(path) as unfinished:
            unfinished.write_text("ne")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert path.read_text() == "old"
    with whole_file(path) as unfinished:
        unfinished.write_text("new")
    assert path.read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_it_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: done.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
    )
    with whole_file(tmp_path / "a.json") as unfinished:
        unfinished.write_text("new")
    assert done == ["unfinished.a.json", tmp_path.name]
