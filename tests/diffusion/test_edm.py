"""The preconditioning and the loss of EDM against the identities of the paper."""

import pytest
import torch

from micro_diffusion.backbone.backbone import Prediction
from micro_diffusion.condition import Condition
from micro_diffusion.diffusion.edm import EDM

SIGMA_DATA = 0.9
SIGMAS = torch.logspace(-2.5, 2, 40, dtype=torch.float64)
TEXT = Condition(torch.zeros(4, 1, 1))


def edm(**changes) -> EDM:
    return EDM(**{"sigma_data": SIGMA_DATA, "P_mean": -0.6, "P_std": 1.2, **changes})


def constant_backbone(value: float, visible: torch.Tensor | None = None):
    return lambda x, level, text, keep=None: Prediction(torch.full_like(x, value), visible)


def test_input_and_target_of_the_network_have_unit_variance():
    c = edm().precondition(SIGMAS)
    input_variance = c.c_in**2 * (SIGMA_DATA**2 + SIGMAS**2)
    target_variance = ((1 - c.c_skip) ** 2 * SIGMA_DATA**2 + c.c_skip**2 * SIGMAS**2) / c.c_out**2
    torch.testing.assert_close(input_variance, torch.ones_like(SIGMAS))
    torch.testing.assert_close(target_variance, torch.ones_like(SIGMAS))


def test_c_skip_minimises_the_amplification_of_the_networks_error():
    c = edm().precondition(SIGMAS)

    def c_out_squared(c_skip):  # Karras et al. 2022, eq. 138
        return (1 - c_skip) ** 2 * SIGMA_DATA**2 + c_skip**2 * SIGMAS**2

    for change in (-0.01, 0.01):
        assert (c_out_squared(c.c_skip + change) > c.c_out**2).all()


def test_weight_makes_the_effective_weight_one():
    objective = edm()
    torch.testing.assert_close(
        objective.weight(SIGMAS) * objective.precondition(SIGMAS).c_out ** 2, torch.ones_like(SIGMAS)
    )


def test_noise_level_is_a_quarter_of_the_logarithm():
    torch.testing.assert_close(edm().precondition(SIGMAS).c_noise, SIGMAS.log() / 4)


def test_training_levels_are_log_normal():
    log_sigma = edm().training_sigma(torch.randn(100_000, generator=torch.Generator().manual_seed(0))).log()
    assert log_sigma.mean() == pytest.approx(-0.6, abs=0.02)
    assert log_sigma.std() == pytest.approx(1.2, abs=0.02)


def test_a_perfect_denoiser_has_no_loss():
    objective, generator = edm(), torch.Generator().manual_seed(1)
    latents, noise = torch.randn(2, 4, 3, 8, 8, generator=generator)

    def perfect(x, level, text, keep=None):
        c = objective.precondition((4 * level).exp().view(-1, 1, 1, 1))
        return Prediction((latents - c.c_skip * (x / c.c_in)) / c.c_out)

    loss = objective.loss(perfect, latents, TEXT, level_normal=torch.linspace(-2, 2, 4), noise=noise)
    assert loss.per_sample.max() < 1e-4


def test_loss_of_a_silent_network_is_one_on_data_of_the_stated_deviation():
    generator = torch.Generator().manual_seed(2)
    latents = SIGMA_DATA * torch.randn(4, 4, 64, 64, generator=generator)
    noise = torch.randn(latents.shape, generator=generator)
    loss = edm().loss(constant_backbone(0.0), latents, TEXT, level_normal=torch.linspace(-2, 2, 4), noise=noise)
    torch.testing.assert_close(loss.per_sample, torch.ones(4), atol=0.05, rtol=0)


def test_masked_loss_is_the_mean_over_visible_cells_only():
    generator = torch.Generator().manual_seed(3)
    latents, noise = torch.randn(2, 4, 3, 8, 8, generator=generator)
    visible = torch.zeros(4, 1, 8, 8, dtype=torch.bool)
    visible[:, :, 2:4, 4:6] = True
    level = torch.zeros(4)
    masked = edm().loss(constant_backbone(0.3, visible), latents, TEXT, level_normal=level, noise=noise)
    crop = (..., slice(2, 4), slice(4, 6))
    alone = edm().loss(constant_backbone(0.3), latents[crop], TEXT, level_normal=level, noise=noise[crop])
    torch.testing.assert_close(masked.per_sample, alone.per_sample)


def test_a_number_a_scalar_and_a_batch_of_sigmas_agree():
    denoise = edm().denoiser(constant_backbone(0.5), TEXT)
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(denoise(x, 2.0), denoise(x, torch.full((4,), 2.0)))
    torch.testing.assert_close(denoise(x, torch.tensor(2.0)), denoise(x, torch.full((4,), 2.0)))


@pytest.mark.parametrize("changes", [{"sigma_data": 0.0}, {"P_std": -1.0}, {"sigma_min": 0.0}, {"sigma_max": 0.001}])
def test_impossible_constants_are_refused(changes):
    with pytest.raises(ValueError, match="EDM is given .*; set sigma_data > 0"):
        edm(**changes)
