import copy

import pytest
import torch
from torch import nn

from micro_diffusion.training.optimizers.adamw import adamw
from micro_diffusion.training.optimizers.muon import Muon, orthogonalize, share_out

SETTINGS = {
    "lr": 1e-2, "matrix_lr_scale": 10.0, "momentum": 0.95, "steps": 5, "betas": (0.9, 0.99), "eps": 1e-8,
    "weight_decay": 0.1,
}  # fmt: skip
ADAMW = {"lr", "betas", "eps", "weight_decay"}


def group(parameters, *, matrices, lr_scale=1.0, decay=True):
    return {"name": "g", "parameters": parameters, "lr_scale": lr_scale, "decay": decay, "matrices": matrices}


def parameters(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def set_gradients(values, seed):
    generator = torch.Generator().manual_seed(seed)
    for value in values:
        value.grad = torch.randn(value.shape, generator=generator)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 24, 8), (2, 8, 24)])
def test_singular_values_come_near_one_and_vectors_stay(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = orthogonalize(matrices, steps=5).float()
    u, s, vh = torch.linalg.svd(matrices, full_matrices=False)
    coordinates = u.mT @ result @ vh.mT
    diagonal = coordinates.diagonal(dim1=-2, dim2=-1)
    large = s > 0.05 * s.max()
    assert (diagonal[large] > 0.6).all() and (diagonal < 1.3).all()
    off_diagonal = coordinates - torch.diag_embed(diagonal)
    assert off_diagonal.abs().max() < 0.05


def test_the_size_of_the_gradient_does_not_matter():
    matrices = torch.randn(2, 8, 12, generator=torch.Generator().manual_seed(0))
    made, expected = (orthogonalize(x, steps=5) for x in (matrices / 1024, matrices))
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-4)  # of entries to 1; the norm has 1e-7 added to it


def test_two_steps_match_the_formula():
    (weight,) = parameters((6, 4))
    optimizer = Muon([group([weight], matrices=True, lr_scale=0.5)], **SETTINGS)
    expected, momentum, lr = weight.detach().clone(), torch.zeros(6, 4), 1e-2 * 10 * 0.5
    for seed in (1, 2):
        set_gradients([weight], seed)
        momentum = 0.95 * momentum + 0.05 * weight.grad
        direction = 0.05 * weight.grad + 0.95 * momentum
        update = orthogonalize(direction[None], steps=5)[0].float()
        expected = expected * (1 - lr * 0.1) - lr * (6 / 4) ** 0.5 * update
        optimizer.step()
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-3, atol=1e-4)


def test_a_stack_of_experts_steps_like_its_matrices():
    experts, first, second = parameters((2, 4, 6), (6, 4), (6, 4))
    with torch.no_grad():
        first.copy_(experts[0].T)
        second.copy_(experts[1].T)
    set_gradients([experts], 1)
    first.grad, second.grad = experts.grad[0].T.clone(), experts.grad[1].T.clone()
    Muon([group([experts], matrices=True)], **SETTINGS).step()
    Muon([group([first, second], matrices=True)], **SETTINGS).step()
    torch.testing.assert_close(experts.detach().mT, torch.stack([first, second]).detach(), rtol=1e-2, atol=1e-3)


def test_a_kernel_steps_like_the_matrix_of_its_filters():
    kernel, matrix = parameters((4, 3, 3, 3), (4, 27))
    with torch.no_grad():
        matrix.copy_(kernel.flatten(1))
    set_gradients([kernel], 1)
    matrix.grad = kernel.grad.flatten(1).clone()
    for parameter in (kernel, matrix):
        Muon([group([parameter], matrices=True)], **SETTINGS).step()
    torch.testing.assert_close(kernel.detach().flatten(1), matrix.detach(), rtol=1e-2, atol=1e-3)


def test_ranks_share_the_matrices():
    """By hand: 8·8·8 twice, 4·4·8 five times; the dearest first, each for the rank that has the least."""
    assert share_out([(5, 4, 8), (2, 8, 8)], ranks=2) == [[0, 1, 0, 1, 0], [0, 1]]
    assert share_out([(5, 4, 8), (1, 8, 8)], ranks=2) == [[1, 1, 1, 1, 0], [0]]
    assert share_out([(1, 4, 8), (2, 8, 4)], ranks=1) == [[0], [0, 0]]


def test_the_rest_steps_like_adamw():
    values, matrix = parameters((5,), (3, 2)), group(parameters((2, 2)), matrices=True)
    twins = copy.deepcopy(values)
    optimizers = [
        Muon([group(values[:1], matrices=False, decay=False), group(values[1:], matrices=False), matrix], **SETTINGS),
        adamw(
            [group(twins[:1], matrices=False, decay=False), group(twins[1:], matrices=False)],
            lr=1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1,
        ),
    ]  # fmt: skip
    for seed in range(3):
        set_gradients(values, seed)
        set_gradients(twins, seed)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(values, twins)


def test_a_model_without_matrices_is_refused():
    with pytest.raises(ValueError, match="no hidden matrices, .*; set optimizer=adamw"):
        Muon([group(parameters((5,)), matrices=False)], **SETTINGS)


def test_adamw_follows_the_groups():
    a, b = parameters((2, 2), (2,))
    optimizer = adamw(
        [group([a], matrices=True, lr_scale=0.5), group([b], matrices=False, decay=False)],
        lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.2,
    )  # fmt: skip
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.05, 0.2), (0.1, 0.0)]


def test_parameters_without_gradient_stay():
    moving, still = parameters((3, 3), (3, 3))
    before = still.detach().clone()
    set_gradients([moving], 0)
    Muon([group([moving, still], matrices=True)], **SETTINGS).step()
    assert torch.equal(still.detach(), before)


def test_goes_on_from_its_state():
    def run(interrupted):
        values = parameters((4, 4), (4,))
        groups = [group(values[:1], matrices=True), group(values[1:], matrices=False)]
        optimizer = Muon(groups, **SETTINGS)
        for seed in range(4):
            if interrupted and seed == 2:
                state = copy.deepcopy(optimizer.state_dict())
                optimizer = Muon(groups, **SETTINGS)
                optimizer.load_state_dict(state)
            set_gradients(values, seed)
            optimizer.step()
        return values

    for a, b in zip(run(False), run(True), strict=True):
        assert torch.equal(a, b)
