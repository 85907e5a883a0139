"""A sampling run that does the work on its captions once draws the same as the plain one, for less, without waiting."""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from micro_diffusion.backbone.dit import SparseDiT
from micro_diffusion.condition import Condition
from micro_diffusion.diffusion.edm import EDM
from micro_diffusion.sampling.dpmpp_2m import DPMpp2MSampler
from micro_diffusion.sampling.euler import EulerSampler
from micro_diffusion.sampling.guidance import EVERY_LEVEL, guided_denoiser
from micro_diffusion.sampling.heun import HeunSampler

OBJECTIVE = EDM(sigma_data=0.9, P_mean=0.0, P_std=1.0)
SPAN = {"sigma_min": 0.002, "sigma_max": 80.0}
SAMPLERS = {"heun": HeunSampler, "euler": EulerSampler, "dpmpp_2m": DPMpp2MSampler}


class Plain:
    """A backbone that prepares nothing."""

    def __init__(self, network):
        self.network = network

    def __call__(self, x, level, text, keep=None):
        return self.network(x, level, text, keep)


@pytest.fixture(params=[True, False], ids=["mask", "no mask"])
def network(request):
    made = SparseDiT(
        input_size=8,
        in_channels=4,
        patch_size=2,
        dim=32,
        depth=3,
        head_dim=8,
        caption_dim=12,
        multiple_of=8,
        mixer_dim=24,
        mixer_depth=2,
        experts=4,
        use_caption_mask=request.param,
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        # large enough that every weight matters, small enough that the sampler does not amplify rounding
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return made.eval().requires_grad_(False)


def sample(backbone, scale, known=True, interval=(0.01, 10.0)):
    generator = torch.Generator().manual_seed(1)
    text = Condition(torch.randn(2, 20, 12, generator=generator), torch.arange(20) < torch.tensor([[7], [20]]))
    noise = torch.randn(2, 4, 8, 8, generator=generator)
    sampler = HeunSampler(steps=4, churn=1, churn_sigma_min=0.1)
    sigmas = sampler.sigmas(**SPAN)
    asked = sampler.asked(sigmas) if known else []
    interval = EVERY_LEVEL if scale == 1 else interval
    denoiser = guided_denoiser(OBJECTIVE, backbone, text, scale, interval=interval, sigmas=asked)
    generators = [torch.Generator().manual_seed(seed) for seed in (2, 3)]
    return sampler(denoiser, noise, sigmas=sigmas, generators=generators)


@pytest.mark.parametrize("known", [True, False], ids=["levels known", "levels unknown"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0])
def test_equal_samples(network, scale, known):
    made, plain = sample(network, scale, known), sample(Plain(network), scale)
    assert (made - plain).abs().max() <= 1e-5 * plain.abs().max()


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_fewer_operations(network, scale):
    def flops(backbone):
        with FlopCounterMode(display=False) as counter:
            sample(backbone, scale)
        return counter.get_total_flops()

    assert flops(network) < 0.9 * flops(Plain(network))


@pytest.mark.parametrize("interval", [EVERY_LEVEL, (0.01, 10.0)], ids=["every level", "an interval"])
def test_captions_and_levels_are_prepared_once(network, interval):
    calls = []
    for layer in (network.caption_embedding, network.noise_embedding, network.blocks[0].cross_attention.kv):
        layer.register_forward_hook(lambda *_: calls.append(1))
    sample(network, 5.0, interval=interval)
    assert len(calls) == 2 + 1 + 2  # captions and null captions, all noise levels, keys and values of both


def test_a_level_that_was_not_prepared_is_an_error(network):
    text = Condition(torch.zeros(1, 20, 12), torch.ones(1, 20, dtype=torch.bool))
    denoiser = guided_denoiser(OBJECTIVE, network, text, 5.0, sigmas=[1.0, 2.0])
    x = torch.zeros(1, 4, 8, 8)
    assert denoiser(x, 2.0).isfinite().all()
    with pytest.raises(RuntimeError, match="noise level was asked for that was not prepared"):
        denoiser(x, 1.5)


class Brought(TorchFunctionMode):
    """Notes what brings numbers from the host to the device, for which the host waits unless their memory is pinned."""

    def __init__(self):
        super().__init__()
        self.by = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        brings = function in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor) or getattr(
            args[0], "is_cpu", False
        )
        if brings and isinstance(result, torch.Tensor) and not result.is_cpu:
            self.by.append(function)
        return result


def run_on(device, network, sampler):
    """A guided sampling run within an interval, made ready on a device."""
    text = Condition(torch.zeros(2, 20, 12), torch.ones(2, 20, dtype=torch.bool)).to(device=device)
    noise = torch.zeros(2, 4, 8, 8, device=device)
    sigmas = sampler.sigmas(**SPAN)
    asked = sampler.asked(sigmas)
    denoiser = guided_denoiser(OBJECTIVE, network.to(device), text, 5.0, interval=(0.01, 10.0), sigmas=asked)
    generators = [torch.Generator().manual_seed(seed) for seed in (2, 3)]
    return lambda: sampler(denoiser, noise, sigmas=sigmas, generators=generators)


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_a_run_asks_for_no_value_and_brings_none(network, sampler):
    """Tensors on "meta" have no values: whatever would make a host wait for one raises an error there."""
    run = run_on("meta", network, sampler(steps=3))
    with Brought() as brought:
        run()
    assert brought.by == []


@pytest.mark.gpu
@pytest.mark.parametrize("sampler", [made(steps=3) for made in SAMPLERS.values()] + [HeunSampler(steps=3, churn=1)])
def test_a_run_does_not_synchronise(network, sampler):
    run = run_on("cuda", network, sampler)
    run()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
