"""Classifier-free guidance against its formula."""

import pytest
import torch

from micro_diffusion.backbone.backbone import Prediction
from micro_diffusion.condition import Condition
from micro_diffusion.diffusion.edm import EDM
from micro_diffusion.sampling.guidance import WeakerRun, guided_denoiser

OBJECTIVE = EDM(sigma_data=0.9, P_mean=0.0, P_std=1.0)


class CaptionSum:
    """A backbone whose prediction is the input plus the sum of its caption's features; counts its calls."""

    def __init__(self):
        self.batches = []

    def __call__(self, x, level, text, keep=None):
        self.batches.append(len(x))
        return Prediction(x + text.tokens.sum(dim=(1, 2)).view(-1, 1, 1, 1))


@pytest.fixture
def text():
    tokens = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    return Condition(tokens, torch.ones(2, 3, dtype=torch.bool))


X, SIGMA = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)), 1.7


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 5.0])
def test_guidance_interpolates_between_unconditional_and_conditional(text, scale):
    conditional = OBJECTIVE.denoiser(CaptionSum(), text)(X, SIGMA)
    unconditional = OBJECTIVE.denoiser(CaptionSum(), text.null())(X, SIGMA)
    guided = guided_denoiser(OBJECTIVE, CaptionSum(), text, scale)(X, SIGMA)
    torch.testing.assert_close(guided, unconditional + scale * (conditional - unconditional))


@pytest.mark.parametrize(("scale", "batch"), [(0, 2), (1, 2), (5, 4)])
def test_the_unguided_scales_cost_half(text, scale, batch):
    backbone = CaptionSum()
    guided_denoiser(OBJECTIVE, backbone, text, scale)(X, SIGMA)
    assert backbone.batches == [batch]


def test_null_leaves_the_caption_alone(text):
    before = text.tokens.clone()
    assert not text.null().tokens.any()
    assert torch.equal(text.tokens, before)


@pytest.mark.parametrize(("sigma", "guided"), [(0.5, False), (0.6, True), (2.0, True), (2.1, False)])
def test_levels_outside_the_interval_are_conditional_at_half_the_cost(text, sigma, guided):
    backbone = CaptionSum()
    made = guided_denoiser(OBJECTIVE, backbone, text, 3.0, interval=(0.5, 2.0))(X, sigma)
    expected = guided_denoiser(OBJECTIVE, CaptionSum(), text, 3.0 if guided else 1.0)(X, sigma)
    torch.testing.assert_close(made, expected)
    assert backbone.batches == [4 if guided else 2]


def test_levels_of_one_batch_may_lie_on_both_sides_of_the_interval(text):
    sigma = torch.tensor([1.0, 5.0])
    made = guided_denoiser(OBJECTIVE, CaptionSum(), text, 3.0, interval=(0.5, 2.0))(X, sigma)
    for sample, scale in enumerate([3.0, 1.0]):
        expected = guided_denoiser(OBJECTIVE, CaptionSum(), text, scale)(X, sigma)
        torch.testing.assert_close(made[sample], expected[sample])


def test_an_empty_interval_is_refused(text):
    with pytest.raises(ValueError, match="interval is 2 to 1"):
        guided_denoiser(OBJECTIVE, CaptionSum(), text, 3.0, interval=(2.0, 1.0))


class CaptionFactor(CaptionSum):
    """A backbone whose prediction deviates more with the sum of its caption's features."""

    def __call__(self, x, level, text, keep=None):
        return Prediction(x * super().__call__(0 * x, level, text, keep).value)


@pytest.mark.parametrize("rescale", [0.3, 1.0])
def test_rescaling_is_that_of_the_paper(text, rescale):
    conditional = OBJECTIVE.denoiser(CaptionFactor(), text)(X, SIGMA)
    plain = guided_denoiser(OBJECTIVE, CaptionFactor(), text, 5.0)(X, SIGMA)
    made = guided_denoiser(OBJECTIVE, CaptionFactor(), text, 5.0, rescale=rescale)(X, SIGMA)
    deviations = [x.flatten(1).std(dim=1).view(-1, 1, 1, 1) for x in (conditional, plain)]
    rescaled = plain * deviations[0] / deviations[1]  # Lin et al. 2023, eq. 15
    torch.testing.assert_close(made, rescale * rescaled + (1 - rescale) * plain)  # eq. 16
    assert not torch.allclose(made, plain)


class Halved(CaptionSum):
    """A weaker network than CaptionSum."""

    def __call__(self, x, level, text, keep=None):
        return Prediction(super().__call__(x, level, text, keep).value / 2)


def test_autoguidance_leads_away_from_the_weaker_run_with_the_same_captions(text):
    objective, network, weak = EDM(sigma_data=0.5, P_mean=0.0, P_std=1.0), CaptionSum(), Halved()
    strong = OBJECTIVE.denoiser(CaptionSum(), text)(X, SIGMA)
    other = objective.denoiser(Halved(), text)(X, SIGMA)
    denoiser = guided_denoiser(OBJECTIVE, network, text, 2.5, weaker=WeakerRun(objective, weak), interval=(0.5, 2.0))
    torch.testing.assert_close(denoiser(X, SIGMA), other + 2.5 * (strong - other))
    torch.testing.assert_close(denoiser(X, 2.5), OBJECTIVE.denoiser(CaptionSum(), text)(X, 2.5))
    assert network.batches == [2, 2] and weak.batches == [2]  # outside the interval the weaker one is not asked


def test_a_weak_network_without_the_condition_is_shown_the_null_condition(text):
    weak = OBJECTIVE.denoiser(Halved(), text.null())(X, SIGMA)
    strong = OBJECTIVE.denoiser(CaptionSum(), text)(X, SIGMA)
    weaker = WeakerRun(OBJECTIVE, Halved(), is_conditional=False)
    made = guided_denoiser(OBJECTIVE, CaptionSum(), text, 2.5, weaker=weaker)(X, SIGMA)
    torch.testing.assert_close(made, weak + 2.5 * (strong - weak))
    assert not torch.allclose(weak, OBJECTIVE.denoiser(Halved(), text)(X, SIGMA))


@pytest.mark.parametrize(
    ("scale", "settings", "message"),
    [
        (1.0, {"rescale": 0.5}, "rescaling has no effect with a guidance scale of 1"),
        (0.0, {"rescale": 0.5}, "rescaling has no effect with a guidance scale of 0"),
        (3.0, {"rescale": 1.5}, "rescaling is 1.5; choose a number from 0 to 1"),
        (1.0, {"weaker": WeakerRun(OBJECTIVE, CaptionSum())}, "weaker run has no effect with a guidance scale of 1"),
    ],
)
def test_what_has_no_effect_is_refused(text, scale, settings, message):
    with pytest.raises(ValueError, match=message):
        guided_denoiser(OBJECTIVE, CaptionSum(), text, scale, **settings)
