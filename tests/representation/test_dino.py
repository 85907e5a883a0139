"""DINOv2 and DINOv3 give one feature for each patch that is asked for, in order, and hand gradients to latents."""

from pathlib import Path

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from micro_diffusion.autoencoder.identity import IdentityAutoencoder
from micro_diffusion.representation.dino import Dino
from micro_diffusion.representation.representation import Representation


def saved(folder: Path) -> Path:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    Dinov2Model(Dinov2Config(**shape)).save_pretrained(folder)
    return folder


def test_dinov2_gives_a_feature_for_each_patch(tmp_path):
    encoder = Dino(folder=str(saved(tmp_path)), autoencoder=IdentityAutoencoder())
    assert isinstance(encoder, Representation) and encoder.dim == 16
    latents = torch.rand(2, 3, 12, 8, requires_grad=True)
    features = encoder.features(latents, (3, 2))
    assert features.shape == (2, 6, 16)
    (gradient,) = torch.autograd.grad(features.sum(), latents)
    assert gradient.abs().sum() > 0
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in encoder.network.parameters())
    pixels = torch.nn.functional.interpolate(latents, size=(42, 28), mode="bicubic", antialias=True) / 2 + 0.5
    mean, deviation = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    expected = encoder.network(pixel_values=(pixels - mean) / deviation).last_hidden_state[:, 1:]
    torch.testing.assert_close(features, expected)


def test_registers_of_dinov3_are_no_patches(tmp_path):
    dinov3 = pytest.importorskip("transformers.models.dinov3_vit")
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    network = dinov3.DINOv3ViTModel(dinov3.DINOv3ViTConfig(**shape, patch_size=16, num_register_tokens=3))
    network.save_pretrained(tmp_path)
    encoder = Dino(folder=str(tmp_path), autoencoder=IdentityAutoencoder())
    latents = torch.rand(1, 3, 4, 4)
    seen = encoder.network(pixel_values=torch.zeros(1, 3, 32, 32)).last_hidden_state
    assert seen.shape[1] == 1 + 3 + 4 and encoder.features(latents, (2, 2)).shape == (1, 4, 16)


def test_another_kind_of_model_and_no_model_are_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no config.json in"):
        Dino(folder=str(tmp_path / "nowhere"), autoencoder=IdentityAutoencoder())
    from transformers import ViTConfig, ViTModel

    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ViTModel(ViTConfig(**shape, image_size=32)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a ViTModel; put a DINOv2 there"):
        Dino(folder=str(tmp_path), autoencoder=IdentityAutoencoder())


def test_it_is_counted_without_weights(tmp_path):
    folder = saved(tmp_path)
    with torch.device("meta"):
        encoder = Dino(folder=str(folder), autoencoder=IdentityAutoencoder())
        assert encoder.features(torch.zeros(1, 3, 4, 4), (2, 2)).is_meta
