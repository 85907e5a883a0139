import pytest
import torch

from micro_diffusion.autoencoder.patch_discriminator import PatchDiscriminator


def receptive_field(layers: int) -> int:
    """Pixels of a patch, from the last convolution back to the first."""
    size = 1
    for stride in [1, 1, *[2] * layers]:
        size = (size - 1) * stride + 4
    return size


@pytest.mark.parametrize(("layers", "patch"), [(1, 16), (2, 34), (3, 70)])
def test_a_logit_sees_the_published_patch(layers: int, patch: int):
    """Without GroupNorm, whose statistics are those of the whole image."""
    assert receptive_field(layers) == patch
    torch.manual_seed(0)
    network = PatchDiscriminator(width=8, layers=layers, groups=4).layers
    convolutions = torch.nn.Sequential(*(m for m in network if not isinstance(m, torch.nn.GroupNorm)))
    images = torch.zeros(1, 3, 128, 128, requires_grad=True)
    logits = convolutions(images)
    assert logits.shape[-1] == 128 // 2**layers - 2
    middle = logits.shape[-1] // 2
    logits[0, 0, middle, middle].backward()
    assert images.grad is not None
    rows = images.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    assert int(rows[-1] - rows[0]) + 1 == patch


def test_images_are_judged_apart_and_the_smallest_is_taken():
    torch.manual_seed(0)
    network = PatchDiscriminator(width=8, layers=2, groups=4)
    images = torch.rand(3, 3, network.smallest, network.smallest)
    logits = network(images)
    assert logits.shape == (3, 1, 1, 1)
    torch.testing.assert_close(logits[1:2], network(images[1:2]), atol=1e-5, rtol=1e-4)
    with pytest.raises(RuntimeError):
        network(images[..., :-4, :-4])


def test_a_width_of_no_whole_groups_is_an_error():
    with pytest.raises(ValueError, match="width of the discriminator is 12; set it to a multiple of groups=8"):
        PatchDiscriminator(width=12)
