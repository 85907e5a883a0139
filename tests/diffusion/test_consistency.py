import itertools
import math

import pytest
import torch

from micro_diffusion.diffusion.consistency import Place, Segments, consistent
from micro_diffusion.sampling.euler import EulerSampler
from micro_diffusion.sampling.heun import HeunSampler
from micro_diffusion.sampling.noise_levels import Karras, LinearTime
from tests.sampling.gaussian import DEVIATION, MEAN, exact_flow, gaussian_denoiser, some_noise

ENDS = [40.0, 3.0, 1.0, 0.3, 0.0]


def column(level):
    return level.view(-1, 1, 1, 1) if isinstance(level, torch.Tensor) and level.ndim else torch.as_tensor(level)


def teacher(x, sigma):
    return gaussian_denoiser(x, column(sigma))


def exact_student(x, sigma, ends=ENDS):
    """The image that an Euler step goes to, where it follows the flow of Gaussian data to the end of the segment."""
    sigma = column(sigma)
    end = torch.zeros_like(sigma)
    for level in ends:
        end = torch.where((end == 0) & (level < sigma * (1 - 1e-6)), torch.full_like(end, level), end)
    there = MEAN + (x - MEAN) * ((DEVIATION**2 + end**2) / (DEVIATION**2 + sigma**2)).sqrt()
    return (there - end / sigma * x) / (1 - end / sigma)


def places(segments, count=400):
    return segments.places((torch.arange(count) + 0.5) / count)


def noisy(place):
    count = len(place.sigma)
    return MEAN + DEVIATION * some_noise(count, 1, 2, 2) + column(place.sigma) * some_noise(count, 1, 2, 2, seed=1)


def error(substeps, student=exact_student):
    place = places(Segments(ENDS, substeps=substeps))
    x = noisy(place)
    return (consistent(student, teacher, x, place) - exact_student(x, place.sigma)).square().mean().sqrt().item()


def test_the_exact_consistency_function_is_consistent_up_to_the_teacher_s_steps():
    """Its distance from the target is that of one step of a second-order method, whose square is the loss."""
    errors = [error(substeps) for substeps in (4, 8, 16)]
    assert errors[0] < 0.03 and errors[2] < 0.003
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine > 3


def test_another_student_is_not_consistent():
    assert error(16, student=teacher) > 10 * error(16)  # the denoiser, which sees the mean of all images


def test_the_last_step_of_a_segment_is_the_teacher_s_own():
    """There nothing of the student is in the target: the boundary condition."""
    place = places(Segments(ENDS, substeps=1), count=4)
    assert torch.equal(place.lower, place.end)
    x = noisy(place)
    target = consistent(lambda x, sigma: torch.full_like(x, 1e6), teacher, x, place)
    assert target.abs().max() < 100
    lowest = place.sigma.argmin()
    torch.testing.assert_close(target[lowest], teacher(x, place.sigma)[lowest])


def test_a_segment_down_to_0_hands_on_what_the_student_sees():
    """Song et al. 2023: f(x, sigma) = f(the teacher's step from it)."""
    place = Place(*(torch.tensor([level]) for level in (2.0, 1.0, 0.0)))
    target = consistent(lambda x, sigma: torch.full_like(x, 0.25), teacher, some_noise(1, 1, 2, 2), place)
    torch.testing.assert_close(target, torch.full_like(target, 0.25))


def test_places_are_steps_of_the_teacher_within_segments():
    place = places(Segments(ENDS, substeps=3), count=1200)
    levels, counts = place.sigma.unique(return_counts=True)
    assert len(levels) == 12 and set(counts.tolist()) == {100}
    assert {round(level, 4) for level in place.end.tolist()} == {0.0, 0.3, 1.0, 3.0}
    assert set(ENDS[:-1]) <= {round(level, 4) for level in levels.tolist()}
    assert (place.sigma > place.lower).all() and (place.lower >= place.end).all()
    time = place.sigma / (1 + place.sigma) - place.lower / (1 + place.lower)
    for end in place.end.unique():
        assert time[place.end == end].std() < 1e-6
    assert Segments([5.0, 0.0], substeps=4).places(torch.tensor([0.0, 1.0])).sigma[1] == 5


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_exact_student_reaches_the_end_of_the_flow_in_its_steps(steps):
    sampler = EulerSampler(steps=steps, levels=LinearTime(first=0.975, shift=2.0))
    sigmas = sampler.sigmas(sigma_min=0.002, sigma_max=80)
    noise = some_noise(4, 1, 2, 2)
    made = sampler(lambda x, sigma: exact_student(x.double(), sigma, ends=sigmas), noise, sigmas=sigmas)
    torch.testing.assert_close(made.double(), exact_flow(noise, sigmas[0]), atol=1e-5, rtol=0)
    assert math.isclose(sigmas[0], 78)


def test_a_teacher_of_no_steps_is_refused():
    with pytest.raises(ValueError, match=r"the teacher takes 0 steps in each segment; set model\.substeps to at least"):
        Segments(ENDS, substeps=0)


CENTRES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
WIDTH = 0.1


def mixture_denoiser(x, sigma):
    """E[x0 | x] for four Gaussian heaps; x (B, 2, 1, 1)."""
    variance = WIDTH**2 + column(sigma).view(-1, 1) ** 2
    flat = x.flatten(1)
    share = torch.softmax(-(flat[:, None] - CENTRES).square().sum(-1) / (2 * variance), dim=1)
    mean = share @ CENTRES
    return (mean + WIDTH**2 / variance * (flat - mean)).view(x.shape)


@pytest.mark.slow
def test_a_small_network_learns_the_teacher_s_way_in_two_steps():
    """Euler's own two steps end beside the heaps."""
    ends, draws = [20.0, 0.7, 0.0], torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torch.nn.Sequential(
            torch.nn.Linear(3, 128),
            torch.nn.SiLU(),
            torch.nn.Linear(128, 128),
            torch.nn.SiLU(),
            torch.nn.Linear(128, 2),
        )

    def student(x, sigma):
        level = column(torch.as_tensor(sigma)).view(-1, 1).expand(len(x), 1).float()
        scale = (level**2 + 0.5).sqrt()
        change = network(torch.cat([x.flatten(1) / scale, level.log() / 4], dim=1))
        return (0.5 / scale**2 * x.flatten(1) + level / scale * change).view(x.shape)

    segments, optimizer = Segments(ends, substeps=6), torch.optim.Adam(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
    for _ in range(1000):
        place = segments.places(torch.rand(512, generator=draws))
        clean = CENTRES[torch.randint(4, (512,), generator=draws)] + WIDTH * torch.randn(512, 2, generator=draws)
        x = (clean + place.sigma[:, None] * torch.randn(512, 2, generator=draws)).view(-1, 2, 1, 1)
        seen = student(x, place.sigma)
        with torch.no_grad():
            target = consistent(student, mixture_denoiser, x, place)
        weight = (1 + place.sigma**-2).view(-1, 1, 1, 1)
        (weight * (seen - target).square()).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()

    noise, euler = some_noise(1000, 2, 1, 1, seed=5), EulerSampler(steps=2)
    with torch.no_grad():
        made = euler(student, noise, sigmas=ends)
    exact = HeunSampler(steps=1)(mixture_denoiser, noise, sigmas=[*Karras()(40, sigma_min=0.01, sigma_max=20.0), 0.0])
    plain = euler(mixture_denoiser, noise, sigmas=ends)
    far, far_plain = ((some - exact).flatten(1).norm(dim=1) for some in (made, plain))
    assert far.median() < 0.3 * far_plain.median()
