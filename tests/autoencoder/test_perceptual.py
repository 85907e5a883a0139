"""With random weights of torchvision's network in a file; the published ones are not here."""

import re
from pathlib import Path

import pytest
import torch
import torchmetrics.functional.image
import torchvision
from torch import Tensor

from micro_diffusion.autoencoder.perceptual import Perceptual

HEADS = Path(torchmetrics.functional.image.__file__).parent / "lpips_models" / "squeeze.pth"
OUTPUTS = [1, 4, 7, 9, 10, 11, 12]
"""Layers of SqueezeNet's features that LPIPS compares (Zhang et al. 2018)."""


def features() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torchvision.models.squeezenet1_1(weights=None).features.eval()


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A state dict as torchvision publishes it, classifier included."""
    state = {f"features.{key}": value for key, value in features().state_dict().items()}
    path = tmp_path_factory.mktemp("lpips") / "squeeze.pth"
    torch.save({**state, "classifier.1.weight": torch.zeros(2)}, path)
    return path


def images(seed: int, side: int = 40) -> Tensor:
    return torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def expected(a: Tensor, b: Tensor) -> Tensor:
    """LPIPS written out: unit features, squared differences, weighted by the heads, averaged over places."""
    shift, scale = torch.tensor([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]])[..., None, None]
    heads = torch.load(HEADS, map_location="cpu", weights_only=True)
    total = torch.zeros(len(a))
    x, y = (a - shift) / scale, (b - shift) / scale
    for number, layer in enumerate(features()):
        x, y = layer(x), layer(y)
        if number in OUTPUTS:
            units = [z / (z.square().sum(dim=1, keepdim=True) + 1e-8).sqrt() for z in (x, y)]
            head = heads[f"lin{OUTPUTS.index(number)}.model.1.weight"]
            total += ((units[0] - units[1]).square() * head.view(1, -1, 1, 1)).sum(dim=1).mean(dim=(1, 2))
    return total


def test_is_the_published_distance_of_each_pair(file):
    perceptual = Perceptual(network="squeeze", path=str(file))
    with torch.no_grad():
        torch.testing.assert_close(perceptual(images(0), images(1)), expected(images(0), images(1)))


def test_it_is_frozen_and_takes_images_beyond_the_range(file):
    perceptual, made = Perceptual(network="squeeze", path=str(file)), (images(0) * 1.2).requires_grad_()
    perceptual(made, images(1)).sum().backward()
    assert made.grad is not None and made.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in perceptual.load().parameters())
    assert perceptual(images(0, perceptual.smallest), images(1, perceptual.smallest)).shape == (3,)


def test_missing_weights_are_one_sentence(tmp_path):
    message = f"there are no LPIPS weights at {tmp_path}/vgg16.pth; put torchvision's vgg16-397923af.pth there, set"
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        Perceptual(path=str(tmp_path / "vgg16.pth")).load()


def test_weights_of_another_network_are_one_sentence(file):
    with pytest.raises(
        ValueError, match=r"squeeze.pth holds another network than torchvision's alexnet, .*; set model"
    ):
        Perceptual(network="alex", path=str(file)).load()


def test_a_file_of_something_else_is_one_sentence(tmp_path):
    (tmp_path / "squeeze.pth").write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=r"squeeze.pth holds no weights of torchvision \(.*\); download it again"):
        Perceptual(network="squeeze", path=str(tmp_path / "squeeze.pth")).load()
