"""Digests follow the weights and nothing else."""

import torch
from torch import nn

from micro_diffusion.files.provenance import weights_digest


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_a_copy_has_the_same_digest_in_another_dtype_too():
    assert weights_digest(network()) == weights_digest(network())
    assert weights_digest(network()) == weights_digest(network().to(torch.bfloat16))
    assert len(weights_digest(network())) == 16


def test_other_values_or_names_have_another():
    digests = {weights_digest(network(seed)) for seed in (0, 1)}
    renamed = nn.Sequential(nn.Identity(), *network())
    assert len(digests | {weights_digest(renamed)}) == 3
    changed = network()
    with torch.no_grad():
        next(changed.parameters())[0, 0] *= 1.01
    assert weights_digest(changed) not in digests
