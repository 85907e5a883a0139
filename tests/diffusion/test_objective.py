"""Compositions of parts against the exact denoiser of Gaussian data, and losses against the formulas of the papers."""

import itertools

import pytest
import torch

from micro_diffusion.backbone.backbone import Prediction
from micro_diffusion.condition import Condition
from micro_diffusion.diffusion import weight
from micro_diffusion.diffusion.edm import EDM
from micro_diffusion.diffusion.objective import Objective
from micro_diffusion.diffusion.prediction import X0, EDMOutput, Noise, Velocity
from micro_diffusion.diffusion.process import LinearInterpolation, VariancePreserving
from micro_diffusion.diffusion.schedule import BetaTable, CosineLogSNR
from micro_diffusion.diffusion.told import LinearTime, LogSNR, QuarterLogSigma, TableStep
from micro_diffusion.diffusion.training_levels import Beta, Laplace, LogitNormal, LogNormal, UniformTime
from tests.sampling.gaussian import DEVIATION, MEAN, gaussian_denoiser

TABLE = BetaTable("cosine", 500)
CONDITION = Condition(torch.zeros(4, 1, 1))
PROCESSES = {"vp": VariancePreserving(), "edm": VariancePreserving(sigma_data=0.7), "linear": LinearInterpolation()}
SIGMAS = torch.tensor([0.02, 0.5, 3.0, 70.0])


def objective(process=None, prediction=None, **changes) -> Objective:
    parts = {"told": QuarterLogSigma(), "levels": LogNormal(), "weight": weight.Uniform(), "sigma_min": 0.01}
    made = {"process": process or VariancePreserving(), "prediction": prediction or X0(), "sigma_max": 80.0, **parts}
    return Objective(**{**made, **changes})


def target(process, prediction, x0, noise, sigma):
    """What the network is to give, in the words of the papers, for a clean image and its noise."""
    alpha = process.alpha(sigma)
    beta = alpha * sigma
    if isinstance(prediction, X0):
        return x0
    if isinstance(prediction, Noise):
        return noise
    if isinstance(process, LinearInterpolation):
        return noise - x0
    data = process.sigma_data
    v = data * alpha * noise - beta * x0 / data  # cos(phi)·n − sin(phi)·x0 of data scaled to unit deviation
    return v if isinstance(prediction, Velocity) else -v


CASES = [
    pytest.param(process, prediction, id=f"{name} {type(prediction).__name__}")
    for (name, process), prediction in itertools.product(PROCESSES.items(), [X0(), Noise(), Velocity(), EDMOutput()])
    if not (name == "linear" and isinstance(prediction, EDMOutput))
]


@pytest.mark.parametrize(("process", "prediction"), CASES)
def test_the_best_network_makes_the_exact_denoiser(process, prediction):
    """The best network gives the mean of its target, which is linear in x0 and noise, for what it sees and is told."""
    seen = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def network(x, level, condition, keep=None):
        sigma = (4 * level.double()).exp().view(-1, 1, 1, 1)
        y = x.double() / process.alpha(sigma)
        x0 = gaussian_denoiser(y, sigma)
        return Prediction(target(process, prediction, x0, (y - x0) / sigma, sigma))

    y = MEAN + (DEVIATION + SIGMAS.view(-1, 1, 1, 1)) * seen
    made = objective(process, prediction).denoiser(network, CONDITION)(y, SIGMAS)
    torch.testing.assert_close(made, gaussian_denoiser(y, SIGMAS.view(-1, 1, 1, 1)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("process", "prediction"), CASES)
def test_the_weight_of_the_output_error_is_plain_squared_error_of_the_target(process, prediction):
    generator = torch.Generator().manual_seed(1)
    latents, noise, output = torch.randn(3, 4, 2, 8, 8, generator=generator).double().float()
    made = objective(process, prediction, weight=weight.OutputError())
    normal = torch.tensor([-1.0, 0.0, 1.0, 2.0])
    loss = made.loss(lambda *_: Prediction(output), latents, CONDITION, level_normal=normal, noise=noise)
    wanted = target(process, prediction, latents, noise, made.training_sigma(normal).view(-1, 1, 1, 1))
    torch.testing.assert_close(loss.per_sample, (output - wanted).square().mean(dim=(1, 2, 3)), rtol=1e-4, atol=0)


def test_weights_of_x0_are_those_that_papers_give_for_other_errors():
    """Hang et al. 2023, section 3.4: min(SNR, 5) for x0, divided by SNR for noise and by SNR + 1 for velocity."""
    snr, bounded = SIGMAS**-2, (SIGMAS**-2).clamp(max=5)
    of_output = {X0: bounded, Noise: bounded / snr, Velocity: bounded / (snr + 1)}
    for prediction, paper in of_output.items():
        made = objective(prediction=prediction(), weight=weight.MinSNR())
        torch.testing.assert_close(made.weight(SIGMAS) * made.precondition(SIGMAS).c_out ** 2, paper)
    noise = objective(prediction=Noise(), weight=weight.P2(k=2.0, gamma=0.5))
    torch.testing.assert_close(noise.weight(SIGMAS) * SIGMAS**2, (2 + snr) ** -0.5)  # Choi et al. 2022, eq. 8
    torch.testing.assert_close(weight.SNR()(SIGMAS, SIGMAS), objective(prediction=Noise()).weight(SIGMAS) * snr)
    torch.testing.assert_close(weight.EDM(sigma_data=1.0)(SIGMAS, SIGMAS), snr + 1)


def test_edm_is_a_composition():
    normal = torch.linspace(-2, 2, 9)
    parts = objective(
        VariancePreserving(sigma_data=0.9),
        EDMOutput(),
        levels=LogNormal(mean=-0.6, std=1.2),
        weight=weight.EDM(sigma_data=0.9),
    )
    edm = EDM(sigma_data=0.9, P_mean=-0.6, P_std=1.2)
    assert torch.equal(edm.training_sigma(normal), parts.training_sigma(normal))
    assert torch.equal(edm.weight(SIGMAS), parts.weight(SIGMAS))
    assert all(map(torch.equal, edm.precondition(SIGMAS), parts.precondition(SIGMAS)))


def test_what_a_network_is_told():
    torch.testing.assert_close(LogSNR()(SIGMAS), (SIGMAS**-2).log())
    torch.testing.assert_close(LinearTime(scale=10)(torch.tensor([1.0, 99.0])), torch.tensor([5.0, 9.9]))
    steps = TableStep(table=TABLE)(TABLE.sigmas.float())
    torch.testing.assert_close(steps, torch.arange(500.0), rtol=0, atol=1e-3)
    between = TableStep(table=TABLE)((TABLE.sigmas[10:12].log().mean()).exp())
    assert between.item() == pytest.approx(10.5)
    assert TableStep(table=TABLE)(torch.tensor([1e-9, 1e9])).tolist() == [0, 499]


def test_numbers_scalars_and_batches_of_levels_agree():
    made = objective(told=TableStep(table=TABLE), levels=UniformTime(schedule=TABLE), sigma_min=None, sigma_max=None)
    network = lambda x, level, condition, keep=None: Prediction(x * level.view(-1, 1, 1, 1))  # noqa: E731
    denoise, x = made.denoiser(network, CONDITION), torch.ones(4, 1, 2, 2)
    assert torch.equal(denoise(x, 2.0), denoise(x, torch.full((4,), 2.0)))
    assert torch.equal(denoise(x, 2.0), denoise(x, torch.tensor(2.0)))


def test_the_ends_of_sampling_follow_from_the_training_levels():
    made = objective(levels=UniformTime(schedule=TABLE), sigma_min=None, sigma_max=None)
    assert (made.sigma_min, made.sigma_max) == (TABLE.sigmas[0].item(), TABLE.sigmas[-1].item())
    bounded = objective(levels=UniformTime(schedule=CosineLogSNR()), sigma_min=None, sigma_max=1000.0)
    assert (bounded.sigma_min, bounded.sigma_max) == (pytest.approx(0.01247, rel=1e-3), 1000)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"process": LinearInterpolation(), "prediction": EDMOutput()}, "not for LinearInterpolation; choose another"),
        ({"told": TableStep(table=TABLE)}, "told the step of BetaTable.*, but trained at other levels"),
        (
            {"told": TableStep(table=TABLE), "levels": UniformTime(schedule=BetaTable("cosine", 501))},
            "told the step of BetaTable.*, but trained at other levels",
        ),
        ({"sigma_max": None}, "training levels LogNormal have no ends to sample between; set objective.sigma_min"),
        ({"levels": Beta(a=1, b=2), "sigma_min": None}, "training levels Beta have no ends"),
        ({"sigma_min": 90.0}, "from sigma 80.0 to 90.0; set 0 < sigma_min < sigma_max"),
        ({"levels": UniformTime(schedule=TABLE), "sigma_max": 1e6}, "from sigma 1e.06 to 0.01, but training from"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        objective(**parts)


@pytest.mark.parametrize(
    ("part", "arguments", "message"),
    [
        (VariancePreserving, {"sigma_data": 0}, "sigma_data of the forward process is 0"),
        (weight.EDM, {"sigma_data": 0}, "sigma_data of the loss weight is 0"),
        (weight.MinSNR, {"gamma": 0}, "gamma of the min-SNR weight is 0"),
        (weight.P2, {"gamma": 0}, "or choose the weight SNR"),
        (LinearTime, {"scale": 0}, "scale of the told time is 0"),
        (LogNormal, {"std": -1}, "std of the training levels is -1"),
        (LogitNormal, {"shift": 0}, "shift of the training levels is 0"),
        (Laplace, {"scale": 0}, "scale of the training levels is 0"),
        (Laplace, {"scale": 1, "shift": 0}, "shift of the training levels is 0"),
        (Beta, {"a": 0, "b": 1}, "a=0, b=1 of a Beta distribution"),
    ],
)
def test_impossible_constants_are_refused(part, arguments, message):
    with pytest.raises(ValueError, match=message):
        part(**arguments)


class Given:
    """A backbone whose prediction is known."""

    def __init__(self, value):
        self.value = value

    def __call__(self, x, level, condition, keep=None):
        return Prediction(self.value)


@pytest.mark.parametrize(("process", "prediction"), CASES)
def test_contrast_is_the_distance_to_the_target_of_another_sample(process, prediction):
    """Stoica et al. 2025, eq. 7, in the words of the paper: |F − target|² − 0.05·|F − target of another|²."""
    torch.manual_seed(0)
    x0, noise, output = torch.randn(3, 4, 2, 3, 3)
    made = objective(process, prediction, weight=weight.OutputError())
    normal = torch.linspace(-1, 1, 4)
    sigma = made.training_sigma(normal).view(-1, 1, 1, 1)
    own = target(process, prediction, x0, noise, sigma)
    other = target(process, prediction, x0.roll(1, 0), noise.roll(1, 0), sigma)
    expected = ((output - own) ** 2 - 0.05 * (output - other) ** 2).mean(dim=(1, 2, 3))
    loss = made.loss(Given(output), x0, CONDITION, level_normal=normal, noise=noise, contrast=0.05)
    torch.testing.assert_close(loss.per_sample, expected, rtol=1e-3, atol=1e-4)


def test_a_loss_can_be_measured_as_another_objective_does():
    """The same denoiser, at the levels and with the weight of the other, whatever it was trained for."""
    torch.manual_seed(0)
    x0, noise = torch.randn(2, 4, 2, 3, 3)
    measure, normal = EDM(sigma_data=0.7, P_mean=0.4, P_std=1.2), torch.linspace(-1, 1, 4)
    for made in (objective(prediction=X0()), objective(LinearInterpolation(), Velocity())):
        loss = made.loss(Given(x0), x0, CONDITION, level_normal=normal, noise=noise, measure=measure)
        sigma = measure.training_sigma(normal)
        column = sigma.view(-1, 1, 1, 1)
        error = (made.denoise(Given(x0), x0 + column * noise, sigma, CONDITION)[0] - x0).square().mean(dim=(1, 2, 3))
        torch.testing.assert_close(loss.per_sample, measure.weight(sigma) * error)
        torch.testing.assert_close(loss.sigma, sigma)
