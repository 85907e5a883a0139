import math

import pytest
import torch

from micro_diffusion.autoencoder.losses import HUBER_WIDTH, FocalFrequency, negative_log_likelihood, pixel_loss


def images(seed: int) -> torch.Tensor:
    return torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_pixel_losses_have_their_definitions():
    a, b = images(0), images(1)
    error = (a - b).abs()
    torch.testing.assert_close(pixel_loss("l1", a, b), error.mean())
    torch.testing.assert_close(pixel_loss("l2", a, b), error.square().mean())
    small = error.square() / (2 * HUBER_WIDTH)
    torch.testing.assert_close(
        pixel_loss("huber", a, b), torch.where(error < HUBER_WIDTH, small, error - HUBER_WIDTH / 2).mean()
    )


def test_a_learned_log_variance_goes_to_that_of_the_error():
    s = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.Adam([s], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        negative_log_likelihood(torch.tensor(0.1), s).backward()
        optimizer.step()
    assert s.item() == pytest.approx(math.log(0.1), abs=1e-2)
    assert negative_log_likelihood(torch.tensor(0.3), 0.0).item() == pytest.approx(0.3)


def test_frequencies_of_equal_weight_are_the_squared_error():
    """Parseval: the orthonormal spectrum has the energy of the image."""
    a, b = images(0), images(1)
    torch.testing.assert_close(FocalFrequency(alpha=0.0)(a, b), (a - b).square().mean())


def test_the_focus_is_on_the_frequency_that_is_missed_most():
    a, b = images(0).double(), images(1).double()
    size = torch.fft.fft2(a.float() - b.float(), norm="ortho").abs()
    focus = size / size.flatten(2).max(dim=2).values[..., None, None]
    torch.testing.assert_close(FocalFrequency()(a, b), (focus * size.square()).mean())
    assert FocalFrequency()(a, a) == 0
    x = images(0).requires_grad_()
    FocalFrequency()(x, images(1)).backward()
    assert x.grad is not None and torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0
