import pytest
import torch
from torch import nn

from micro_diffusion.autoencoder.adversarial import LARGEST_WEIGHT, Adversarial, adaptive_weight
from micro_diffusion.autoencoder.patch_discriminator import PatchDiscriminator


def build(**changes) -> Adversarial:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(width=8, layers=1, groups=4)
    return Adversarial(**{"discriminator": discriminator, "start": 10, **changes})


def images(seed: int) -> torch.Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("kind", ["hinge", "softplus"])
def test_losses_have_their_definitions(kind):
    game = build(loss=kind)
    real, fake = (game.discriminator(images(seed)) for seed in (0, 1))
    judgement = game.judge(images(1), images(0))
    if kind == "hinge":
        expected = ((1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean()) / 2, -fake.mean()
    else:
        targets = torch.ones_like(real), torch.zeros_like(fake)
        entropy = nn.functional.binary_cross_entropy_with_logits
        expected = (entropy(real, targets[0]) + entropy(fake, targets[1])) / 2, entropy(fake, targets[0])
    torch.testing.assert_close((judgement.loss, game.generator_loss(images(1))), expected)
    torch.testing.assert_close((judgement.real, judgement.fake), (real.mean(), fake.mean()))


def test_neither_player_leaves_a_gradient_in_the_other():
    game, made = build(), images(1).requires_grad_()
    game.generator_loss(made).backward()
    assert made.grad is not None and made.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in game.parameters())
    made.grad = None
    game.judge(made, images(0)).loss.backward()
    assert made.grad is None
    assert all(parameter.grad is not None for parameter in game.parameters())


def test_silence_has_a_zero_gradient_for_every_parameter():
    game = build()
    game.silence().backward()
    assert all(p.grad is not None and not p.grad.any() for p in game.parameters())


def test_the_adaptive_weight_balances_the_gradients():
    layer = nn.Parameter(torch.tensor([3.0, 4.0]))
    weight = adaptive_weight(2 * layer.sum(), (layer * torch.tensor([0.6, 0.8])).sum(), layer)
    assert weight.item() == pytest.approx(2 * 2**0.5, rel=1e-3) and not weight.requires_grad
    assert adaptive_weight(layer.sum(), 0 * layer.sum(), layer).item() == LARGEST_WEIGHT
    assert layer.grad is None


@pytest.mark.parametrize("which", ["reconstruction", "adversarial"])
def test_a_weight_that_is_not_finite_is_an_error(which):
    layer = nn.Parameter(torch.ones(2))
    losses = {"reconstruction": layer.sum(), "adversarial": layer.sum(), which: layer.sum() * torch.inf}
    with pytest.raises(FloatingPointError, match="the adversarial weight is not finite: .* inf.*; lower optimizer"):
        adaptive_weight(losses["reconstruction"], losses["adversarial"], layer)


def test_a_lead_before_the_first_step_is_an_error():
    with pytest.raises(
        ValueError, match="lead is 11, which begins before training, as start is 10; set lead to at most"
    ):
        build(lead=11)
