"""The importer for released MicroDiT weights, on the published keys and shapes and on weights of a small network."""

import inspect
import json
from pathlib import Path

import pytest
import torch
from hydra.utils import get_object
from torch import Tensor

from micro_diffusion.backbone.dit import SparseDiT
from micro_diffusion.checkpoint import PARTS, load_backbone, read_config
from micro_diffusion.condition import Condition
from micro_diffusion.released_weights import (
    import_microdit,
    import_run,
    infer_config,
    infer_position_scale,
    own_name,
    published_config,
    read_released,
    released_name,
    released_shapes,
)

FIXTURES = Path(__file__).parent / "fixtures"

SIZES = {
    "xl": {"dim": 1024, "depth": 28, "head_dim": 64, "mixer_depth": 6, "mixer_dim": 768},
    "tiny": {"dim": 512, "depth": 16, "head_dim": 32, "mixer_depth": 4, "mixer_dim": 512},
}
SHARED = {
    "input_size": 32,
    "in_channels": 4,
    "patch_size": 2,
    "caption_dim": 1024,
    "qkv_ratio": (0.5, 1.0),
    "mlp_ratio": (0.5, 4.0),
    "multiple_of": 256,
    "mixer_qkv_ratio": 1.0,
    "mixer_mlp_ratio": 4.0,
    "experts": 8,
    "expert_capacity": 2.0,
    "experts_every": 2,
}
SMALL = {
    "input_size": 8,
    "in_channels": 4,
    "patch_size": 2,
    "dim": 64,
    "depth": 4,
    "head_dim": 16,
    "caption_dim": 32,
    "multiple_of": 16,
    "mixer_depth": 2,
    "mixer_dim": 48,
    "experts": 4,
    "position_scale": 2.0,
}


def published(size: str) -> tuple[dict[str, tuple[int, ...]], int]:
    """Released keys and shapes, and the number of parameters."""
    content = json.loads((FIXTURES / f"microdit_{size}_keys.json").read_text())
    return {key: tuple(shape) for key, shape in content["state_dict"].items()}, content["parameters"]


def on_meta(size: str) -> tuple[SparseDiT, dict[str, Tensor]]:
    shapes, _ = published(size)
    with torch.device("meta"):
        return SparseDiT(**infer_config(shapes)), {key: torch.empty(shape) for key, shape in shapes.items()}


def small_release() -> tuple[SparseDiT, dict[str, Tensor]]:
    """A small network with random weights, and these weights as a released file would hold them."""
    backbone = SparseDiT(**SMALL)
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter)
    state = {released_name(key): value for key, value in backbone.state_dict().items()}
    patches = state["x_embedder.proj.weight"].unflatten(1, (2, 2, 4))  # row, column, channel
    state["x_embedder.proj.weight"] = patches.permute(0, 3, 1, 2)
    state["pos_embed"] = backbone.get_buffer("positions")[None]
    state["mask_token"] = torch.zeros(1, 1, 16)
    return backbone, state


@pytest.mark.parametrize("size", SIZES)
def test_configuration_follows_from_the_published_shapes(size: str):
    shapes, parameters = published(size)
    config = infer_config(shapes)
    assert config == SHARED | SIZES[size]
    with torch.device("meta"):
        backbone = SparseDiT(**config)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == parameters


@pytest.mark.parametrize(("size", "count"), [("xl", 478), ("tiny", 290)])
def test_every_published_key_is_accepted(size: str, count: int):
    backbone, state = on_meta(size)
    assert len(state) == count
    imported = import_microdit(state, backbone)
    own = backbone.state_dict()
    assert {key: value.shape for key, value in imported.items()} == {key: value.shape for key, value in own.items()}
    assert set(released_shapes(backbone)) == set(state) - {"pos_embed", "mask_token"}


def test_names_map_one_to_one():
    shapes, _ = published("xl")
    names = [key for key in shapes if key not in ("pos_embed", "mask_token")]
    assert [released_name(own_name(key)) for key in names] == names
    assert len({own_name(key) for key in names}) == len(names)


def test_weights_land_where_they_belong():
    backbone, state = small_release()
    assert (
        infer_config({key: tuple(value.shape) for key, value in state.items()}).items() <= {**SHARED, **SMALL}.items()
    )
    imported = import_microdit(state, backbone)
    own = backbone.state_dict()
    assert imported.keys() == own.keys()
    assert all(torch.equal(value, own[key]) for key, value in imported.items())


def test_a_patch_is_embedded_as_the_released_convolution_does():
    backbone, state = small_release()
    x = torch.randn(1, 4, 8, 8)
    expected = torch.nn.functional.conv2d(x, state["x_embedder.proj.weight"], state["x_embedder.proj.bias"], stride=2)
    seen: list[Tensor] = []
    backbone.patch_embedding.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        backbone(x, torch.zeros(1), Condition(torch.zeros(1, 3, 32)))
    torch.testing.assert_close(seen[0].transpose(1, 2).unflatten(2, (4, 4)), expected)


def test_all_differences_are_reported_under_released_names():
    backbone, state = on_meta("tiny")
    state["blocks.3.extra.weight"] = state.pop("blocks.3.mlp.w1")
    del state["final_layer.linear.bias"]
    state["x_embedder.proj.weight"] = torch.empty(512, 16, 2, 2, device="meta")
    with pytest.raises(ValueError, match="do not fit the network") as error:
        import_microdit(state, backbone)
    for part in (
        "2 missing (blocks.3.mlp.w1, final_layer.linear.bias)",
        "1 unexpected (blocks.3.extra.weight)",
        "1 misshapen (x_embedder.proj.weight [512, 16, 2, 2] instead of [512, 4, 2, 2])",
    ):
        assert part in str(error.value)


def test_other_positions_are_reported():
    backbone, state = small_release()
    assert infer_position_scale(state["pos_embed"]) == 2.0
    backbone.resize(8, 1.0)
    with pytest.raises(ValueError, match=r"pos_embed differs by up to .* \(now 1\)"):
        import_microdit(state, backbone)
    backbone.resize(16, 2.0)
    with pytest.raises(ValueError, match="16 positions .* the network has 64"):
        import_microdit(state, backbone)


def test_positions_and_mask_token_may_be_absent():
    backbone, state = small_release()
    del state["pos_embed"], state["mask_token"]
    assert import_microdit(state, backbone).keys() == backbone.state_dict().keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_released_file_becomes_a_run_folder(tmp_path: Path, dtype: torch.dtype):
    backbone, state = small_release()
    torch.save({f"module.{key}": value.to(dtype) for key, value in state.items()}, tmp_path / "released.pt")
    import_run(tmp_path / "released.pt", tmp_path / "run")
    loaded = load_backbone(tmp_path / "run")
    assert all(
        torch.equal(p.to(dtype), q.to(dtype)) for p, q in zip(loaded.parameters(), backbone.parameters(), strict=True)
    )
    config = read_config(tmp_path / "run")
    assert config["backbone"]["input_size"] == 8
    assert config["backbone"]["position_scale"] == 2.0


@pytest.mark.parametrize("channels", [4, 16])
def test_the_published_parts_take_the_arguments_they_are_given(channels: int):
    config = published_config(infer_config(published("xl")[0]) | {"in_channels": channels})
    nodes = {part: dict(node) for part, node in config.items() if part in PARTS}
    assert set(nodes) == set(PARTS)
    for node in nodes.values():
        inspect.signature(get_object(node.pop("_target_"))).bind(**node)
    assert ("stable-diffusion-xl" in nodes["autoencoder"]["path"]) == (channels == 4)


class Spy:
    """Unpickling it would run code."""

    def __reduce__(self):
        return (Path.touch, (Path("was-here"),))


def test_a_file_with_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"blocks": Spy()}, "evil.pt")
    with pytest.raises(ValueError, match=r"evil\.pt cannot be read as a file of weights alone"):
        read_released("evil.pt")
    assert not Path("was-here").exists()


def test_other_files_are_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no weight file"):
        read_released(tmp_path / "none.pt")
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="no plain state dict"):
        read_released(tmp_path / "list.pt")
    torch.save({"w": torch.ones(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="no MicroDiT weights: x_embedder.proj.weight, pos_embed"):
        import_run(tmp_path / "other.pt", tmp_path / "run")
    assert not (tmp_path / "run").exists()
