"""The importer for weights of transformer latent diffusion, on files made in the released form."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from micro_diffusion.backbone.conv_transformer import ConvTransformer
from micro_diffusion.checkpoint import WEIGHT_FILES, initialise_from, load_backbone, read_config
from micro_diffusion.cli.entry import main
from micro_diffusion.condition import Condition
from micro_diffusion.tld_weights import import_tld_run, own_name, read_tld, released_name

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = {"legacy": "tld_legacy_small", "main": "tld_small"}


def golden(code: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights as a released file holds them, and the public network's inputs and outputs."""
    with safe_open(FIXTURES / f"{NAMES[code]}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    kinds = ("weights.", "io.")
    weights, io = ({k.removeprefix(kind): v for k, v in tensors.items() if k.startswith(kind)} for kind in kinds)
    return weights, io


def checkpoint(weights: dict[str, Tensor]) -> dict[str, Any]:
    """As a training with compilation writes it."""
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 3e-4, "params": [0]}]}
    return {
        "model_ema": {f"_orig_mod.{key}": value for key, value in weights.items()},
        "opt_state": optimizer,
        "global_step": 378000,
    }


def prediction(folder: Path, io: dict[str, Tensor]) -> Tensor:
    condition = Condition(io["y"][:, None])
    with torch.no_grad():
        return load_backbone(folder)(io["x"], io["noise_level"].flatten(), condition).value


def assert_public(folder: Path, io: dict[str, Tensor]):
    assert (prediction(folder, io) - io["out"]).abs().max() <= 1e-4 * io["out"].abs().max()


def test_a_released_state_dict_is_legacy_unless_it_is_said_to_be_another(tmp_path, capsys):
    weights, io = golden("legacy")
    torch.save(weights, tmp_path / "state_dict.pth")
    assert main(["import-tld", str(tmp_path / "state_dict.pth"), str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "code legacy, v0.1.0" in said and "--code main takes it for the other" in said
    assert_public(tmp_path / "run", io)

    assert main(["import-tld", str(tmp_path / "state_dict.pth"), str(tmp_path / "other"), "--code", "main"]) == 0
    assert "code main, the code since March 2024" in capsys.readouterr().out
    assert (prediction(tmp_path / "other", io) - io["out"]).abs().max() > 0.1 * io["out"].abs().max()


def test_a_training_checkpoint_gives_its_average(tmp_path, capsys):
    weights, io = golden("main")
    torch.save(checkpoint(weights), tmp_path / "checkpoint.pth")
    assert main(["import-tld", str(tmp_path / "checkpoint.pth"), str(tmp_path / "run")]) == 0
    assert "code main" in capsys.readouterr().out
    assert (tmp_path / "run" / WEIGHT_FILES["ema"]).is_file()
    assert_public(tmp_path / "run", io)


def test_the_run_folder_has_all_parts_of_the_stage_and_starts_others(tmp_path):
    weights, _ = golden("legacy")
    torch.save(weights, tmp_path / "state_dict.pth")
    assert main(["import-tld", str(tmp_path / "state_dict.pth"), str(tmp_path / "run")]) == 0
    config = read_config(tmp_path / "run")
    assert config["autoencoder"]["scaling_factor"] == 0.125
    assert config["text_encoder"]["model"] == "ViT-L-14-quickgelu"
    assert config["objective"]["prediction"]["_target_"].endswith("X0")
    assert config["sampler"]["levels"]["_target_"].endswith("LinearTime")
    first = load_backbone(tmp_path / "run")
    assert isinstance(first, ConvTransformer)
    wider = ConvTransformer(
        **{**_arguments(config["backbone"]), "image_channels": 5, "input_size": 32, "position_scale": 2.0}
    )
    initialise_from(wider, tmp_path / "run")
    first.resize(32, 2.0)
    x, level, tokens = torch.randn(1, 4, 32, 32), torch.rand(1), torch.randn(1, 1, 768)
    expected = first(x, level, Condition(tokens)).value
    torch.testing.assert_close(wider(x, level, Condition(tokens, image=torch.randn(1, 5, 32, 32))).value, expected)


def _arguments(node: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key != "_target_"}


def test_names_are_translated_both_ways():
    weights, _ = golden("main")
    for key in weights:
        if "angular_speeds" not in key and "precomputed" not in key:
            assert released_name(own_name(key)) == key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {"weights": 3}, "holds neither a plain state dict nor a checkpoint with model_ema"),
        (lambda w: {"other.weight": torch.ones(2)}, "these are no TLD weights: .* missing"),
        (lambda w: {**w, "label_proj.bias": torch.ones(7)}, "fit neither code of TLD: 1 misshapen .label_proj.bias"),
        (lambda w: {**w, "more.weight": torch.ones(7)}, "fit neither code of TLD: 1 unexpected .more.weight"),
        (lambda w: {k: v for k, v in w.items() if k != "norm.bias"}, "fit neither code of TLD: 1 missing .norm.bias"),
        (
            lambda w: {**w, "fourier_feats.0.angular_speeds": w["fourier_feats.0.angular_speeds"] * 2},
            "angular_speeds of the weights holds other numbers",
        ),
        (
            lambda w: {**w, "denoiser_trans_block.pos_embed.weight": torch.ones(63, 128)},
            "63 positions, which are no square grid",
        ),
    ],
)
def test_what_fits_neither_code_is_one_sentence(tmp_path, capsys, change, message):
    torch.save(change(golden("main")[0]), tmp_path / "file.pth")
    with pytest.raises(ValueError, match=message):
        import_tld_run(tmp_path / "file.pth", tmp_path / "run", {})
    assert not (tmp_path / "run").exists()


def test_files_that_cannot_be_read_are_one_sentence(tmp_path, capsys):
    assert main(["import-tld", str(tmp_path / "none.pth"), str(tmp_path / "run")]) == 2
    assert "there is no weight file" in capsys.readouterr().err
    (tmp_path / "text.pth").write_text("<html>")
    with pytest.raises(ValueError, match="is no whole file of torch.save"):
        read_tld(tmp_path / "text.pth")
    torch.save({"code": print}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="cannot be read as a file of weights alone"):
        read_tld(tmp_path / "code.pth")
    weights, _ = golden("main")
    torch.save(weights, tmp_path / "file.pth")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    assert main(["import-tld", str(tmp_path / "file.pth"), str(tmp_path / "run")]) == 2
    assert "is a run folder already" in capsys.readouterr().err
