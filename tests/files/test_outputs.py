"""Outputs that cannot be written, or would be overwritten, are found before the work."""

from __future__ import annotations

import os
from pathlib import Path

import click
import pytest

from micro_diffusion.cli.arguments import OUT, RESOLUTION
from micro_diffusion.cli.cascades import stages_before_prompts
from micro_diffusion.files.outputs import check_different, check_output_file, named_folder
from micro_diffusion.sampling.guidance import guided_denoiser
from micro_diffusion.sampling.image_file import check_image_file


def test_a_file_is_checked_before_it_is_written_and_nothing_is_left(tmp_path, monkeypatch):
    check_output_file(tmp_path / "new" / "scores.json", endings=[".json"])
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(ValueError, match=r"e.png ends in '.png', but the file of scores has the ending .json"):
        check_output_file(tmp_path / "e.png", endings=[".json"], content="the file of scores")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder, but a file is wanted"):
        check_image_file(tmp_path / "folder.png")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="a file stands there"):
        check_output_file(tmp_path / "file" / "scores.json")
    monkeypatch.setattr("tempfile.NamedTemporaryFile", refused)
    with pytest.raises(PermissionError, match="cannot be written to .Permission denied."):
        check_output_file(tmp_path / "scores.json")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="may not be overwritten"):
        check_output_file(tmp_path / "file")


def refused(**options):
    raise PermissionError(13, "Permission denied")


def test_two_results_need_two_files(tmp_path):
    check_different(tmp_path / "a.json", tmp_path / "a.png", first_holds="scores", second_holds="images")
    with pytest.raises(ValueError, match="would hold scores and then images; name two files"):
        check_different(Path("a.png"), Path("./a.png"), first_holds="scores", second_holds="images")


def test_what_ends_in_a_slash_is_a_folder(tmp_path):
    assert OUT.convert(f"{tmp_path}/outs_v1.5/", None, None).is_dir()
    with pytest.raises(ValueError, match="'.5', which is no image; .* or end the name of a folder in /"):
        check_image_file(tmp_path / "others_v1.5")
    (tmp_path / "file").touch()
    with pytest.raises(click.BadParameter, match="a file stands there"):
        OUT.convert(f"{tmp_path}/file/", None, None)


def test_the_current_folder_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert named_folder(Path(".")) == tmp_path
    assert named_folder(Path("..")) == tmp_path.parent
    assert named_folder(Path("a/b")) == Path("a/b")


def test_a_file_of_prompts_is_no_prompt(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("a fox\n")
    with pytest.raises(ValueError, match="the prompt 'prompts.txt' is a file; give its lines"):
        stages_before_prompts("demo", ["prompts.txt"])
    assert stages_before_prompts("demo", ["no such file.txt"]) == ([], ["no such file.txt"])


@pytest.mark.parametrize("size", ["0", "0x64", "-8"])
def test_no_image_has_no_pixels(size):
    with pytest.raises(click.BadParameter, match="is no size; use at least 1 pixel"):
        RESOLUTION.convert(size, None, None)


@pytest.mark.parametrize("scale", [1e39, float("nan"), float("inf"), -1001.0])
def test_guidance_has_bounds(scale):
    with pytest.raises(ValueError, match="the guidance scale is .*; choose one from -1000 to 1000, such as 5"):
        guided_denoiser(None, None, None, scale)  # pyright: ignore[reportArgumentType]
