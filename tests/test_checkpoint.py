"""Run folders: what is written comes back, wrappers leave no trace, and whatever does not fit is named."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from micro_diffusion.backbone.dit import SparseDiT
from micro_diffusion.checkpoint import (
    build,
    choose_weights,
    export_run,
    initialise_from,
    load_backbone,
    load_run,
    load_strictly,
    plain_keys,
    read_config,
    run_folders,
    save_weights,
    write_config,
)
from micro_diffusion.files.old_names import renamed
from micro_diffusion.files.weight_file import read_tensors
from tests.run_folder import BACKBONE, CONFIG, make_run, random_backbone


def test_weights_come_back_bit_for_bit(tmp_path: Path):
    backbone = random_backbone(seed=3)
    save_weights(tmp_path, backbone.state_dict(), "raw")
    loaded = read_tensors(tmp_path / "model.safetensors")
    assert loaded.keys() == backbone.state_dict().keys()
    assert all(torch.equal(value, loaded[key]) for key, value in backbone.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    (tmp_path / "other").touch()
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_wrappers_leave_no_trace(tmp_path: Path):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    state = {f"module._orig_mod.{key}": value for key, value in model.state_dict().items()}  # DDP of a compiled model
    save_weights(tmp_path, state, "ema")
    assert sorted(load_file(tmp_path / "ema.safetensors")) == sorted(model.state_dict())
    assert plain_keys({"blocks._orig_mod.0.w": torch.ones(1)}).keys() == {"blocks.0.w"}
    assert plain_keys({"submodule.w": torch.ones(1)}).keys() == {"submodule.w"}


def test_two_keys_that_become_one_are_refused():
    with pytest.raises(ValueError, match="with and without a wrapper's prefix"):
        plain_keys({"w": torch.ones(1), "module.w": torch.zeros(1)})


def test_positions_are_no_part_of_the_weights(tmp_path: Path):
    make_run(tmp_path)
    assert "positions" not in read_tensors(tmp_path / "ema.safetensors")


@pytest.mark.parametrize(("asked", "present", "taken"), [(None, "both", 1), ("raw", "both", 2), (None, "raw", 2)])
def test_a_run_loads_the_weights_asked_for(tmp_path: Path, asked, present, taken):
    make_run(tmp_path, raw=2, ema=1 if present == "both" else None)
    run = load_run(tmp_path, weights=asked)
    expected = random_backbone(taken)
    assert run.weights == {1: "ema", 2: "raw"}[taken]
    assert all(torch.equal(p, q) for p, q in zip(run.backbone.parameters(), expected.parameters(), strict=True))
    assert not run.backbone.training
    assert run.sampler.steps == 3
    assert run.prompts.captions == CONFIG["prompts"]["captions"]


def test_a_loaded_backbone_computes_what_the_saved_one_did(tmp_path: Path):
    make_run(tmp_path, ema=5)
    run, original = load_run(tmp_path), random_backbone(5)
    x, level = torch.randn(2, 3, 16, 16), torch.tensor([0.1, -0.3])
    text = run.text_encoder.encode(["a red circle", "a star"])
    expected = original(x, level, text).value
    assert torch.equal(run.backbone(x, level, text).value, expected)
    assert torch.equal(load_backbone(tmp_path)(x, level, text).value, expected)


def test_the_next_stage_starts_from_a_run_at_another_resolution(tmp_path: Path):
    make_run(tmp_path, raw=2, ema=1)
    backbone = SparseDiT(**{**BACKBONE, "input_size": 32, "position_scale": 2.0})
    positions = backbone.get_buffer("positions").clone()
    assert initialise_from(backbone, tmp_path) == "ema"
    assert torch.equal(backbone.final.weight, random_backbone(1).final.weight)
    assert initialise_from(backbone, tmp_path, "raw") == "raw"
    assert torch.equal(backbone.final.weight, random_backbone(2).final.weight)
    assert torch.equal(backbone.get_buffer("positions"), positions)
    assert positions.shape == (64, 32)


def test_all_differences_are_named_at_once_and_nothing_is_loaded():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = {
        "0.weight": torch.ones(3, 2),
        "0.bias": torch.ones(4),
        "1.weight": torch.ones(1, 3),
        "2.bias": torch.ones(1),
    }
    with pytest.raises(ValueError, match="does not fit") as error:
        load_strictly(model, state, "some.file")
    for part in ("some.file", "1 missing (1.bias)", "1 unexpected (2.bias)", "1 misshapen (0.bias [4] instead of [3])"):
        assert part in str(error.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_missing_run_folder_names_those_that_exist(tmp_path: Path):
    make_run(tmp_path / "first")
    make_run(tmp_path / "second")
    assert run_folders(tmp_path) == ["first", "second"]
    with pytest.raises(FileNotFoundError, match="no run folder .*third; .* are: first, second"):
        load_run(tmp_path / "third")
    with pytest.raises(FileNotFoundError, match="there is none"):
        initialise_from(random_backbone(1), tmp_path / "first" / "none")


def test_missing_weights_say_what_is_there(tmp_path: Path):
    make_run(tmp_path, ema=None)
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        load_run(tmp_path)
    make_run(tmp_path, raw=1, ema=None)
    with pytest.raises(FileNotFoundError, match="no ema weights .* use raw"):
        choose_weights(tmp_path, "ema")


def test_a_folder_without_config_is_no_run(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"holds no config\.yaml"):
        load_run(tmp_path)


def test_a_part_that_is_missing_or_cannot_be_built_is_named(tmp_path: Path):
    make_run(tmp_path)
    config = read_config(tmp_path)
    assert config == renamed(CONFIG)
    write_config(tmp_path, {key: node for key, node in config.items() if key != "sampler"})
    with pytest.raises(ValueError, match="describes no sampler"):
        load_run(tmp_path)
    write_config(tmp_path, {**config, "sampler": {**config["sampler"], "stepz": 4}})
    with pytest.raises(ValueError, match="sampler of .* cannot be built: .*stepz"):
        load_run(tmp_path)


def test_an_error_of_a_part_is_passed_on_as_it_is(tmp_path: Path):
    with pytest.raises(ValueError, match=r"^dim of the tiny text encoder is 25; set it to a .* multiple of window=3$"):
        build({"text_encoder": {**CONFIG["text_encoder"], "dim": 25}}, "text_encoder", tmp_path)


def test_a_truncated_weight_file_is_refused(tmp_path: Path):
    make_run(tmp_path)
    path = tmp_path / "ema.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"ema\.safetensors cannot be read"):
        load_run(tmp_path)


def test_an_export_draws_as_the_run_does(tmp_path: Path):
    make_run(tmp_path / "run", raw=2, ema=1)
    write_config(tmp_path / "run", {**read_config(tmp_path / "run"), "optimizer": {"lr": 1.0}})
    export_run(tmp_path / "run", tmp_path / "half", dtype=torch.float16)
    assert sorted(path.name for path in (tmp_path / "half").iterdir()) == ["config.yaml", "ema.safetensors"]
    assert "optimizer" not in read_config(tmp_path / "half")
    assert all(value.dtype == torch.float16 for value in read_tensors(tmp_path / "half" / "ema.safetensors").values())
    backbone = load_run(tmp_path / "half").backbone
    assert backbone.final.weight.dtype == torch.float32
    torch.testing.assert_close(backbone.final.weight, random_backbone(1).final.weight, rtol=1e-3, atol=1e-6)
    with pytest.raises(FileExistsError, match="is a run folder already"):
        export_run(tmp_path / "run", tmp_path / "half")


class Encoder:
    def __init__(self, *, device: str = "cpu") -> None:
        self.device = device


def test_parts_that_take_a_device_get_the_runs(tmp_path: Path):
    node = {"_target_": f"{__name__}.Encoder"}
    assert build({"text_encoder": node}, "text_encoder", tmp_path, "meta").device == "meta"


def test_an_unknown_target_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"sampler of .* cannot be built: .*NoSampler"):
        build({"sampler": {"_target_": "micro_diffusion.sampling.heun.NoSampler"}}, "sampler", tmp_path)
