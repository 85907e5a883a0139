"""A weight file notices what has changed in it, and those that ship with the package do too."""

import resource
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from micro_diffusion import bundled
from micro_diffusion.files.weight_file import DIGEST, digest, read_tensors, write_tensors

TENSORS = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.ones(2, dtype=torch.bfloat16), "c": torch.tensor(7)}


def test_what_is_written_is_read(tmp_path: Path):
    write_tensors(tmp_path / "w.safetensors", TENSORS, weights="raw")
    read = read_tensors(tmp_path / "w.safetensors")
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[key], value) and read[key].dtype == value.dtype for key, value in TENSORS.items())


@pytest.mark.parametrize(
    "change",
    [
        {"a": torch.arange(12.0).reshape(3, 4) + torch.eye(3, 4) * 1e-6},
        {"a": torch.arange(12.0).reshape(4, 3)},
        {"c": torch.tensor(7, dtype=torch.int32)},
        {"d": torch.ones(2, dtype=torch.bfloat16), "b": torch.zeros(2)},
    ],
    ids=["value", "shape", "type", "names"],
)
def test_what_has_changed_is_noticed(tmp_path: Path, change: dict[str, torch.Tensor]):
    save_file({**TENSORS, **change}, tmp_path / "w.safetensors", metadata={DIGEST: digest(TENSORS)})
    with pytest.raises(ValueError, match="are not those that were written"):
        read_tensors(tmp_path / "w.safetensors")


def test_a_full_disk_is_one_sentence_and_the_file_before_stays(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    write_tensors(path, TENSORS)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(
            OSError, match=f"^there is no room to write the weights {path}; make room and give the same"
        ):
            write_tensors(path, {"a": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read_tensors(path).keys() == TENSORS.keys() and list(tmp_path.iterdir()) == [path]


def test_files_of_others_are_read_without_a_digest(tmp_path: Path):
    save_file(TENSORS, tmp_path / "w.safetensors")
    assert read_tensors(tmp_path / "w.safetensors").keys() == TENSORS.keys()


BUNDLED = sorted(Path(bundled.__file__).parent.rglob("*.safetensors"))


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.parent.name)
def test_bundled_weights_have_their_digest(path: Path):
    with safe_open(path, framework="pt") as file:
        assert file.metadata()[DIGEST] == digest(read_tensors(path))
