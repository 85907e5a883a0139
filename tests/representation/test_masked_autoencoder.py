"""What a masked autoencoder sees, what it is asked, and that it learns from what is visible."""

import pytest
import torch

from micro_diffusion.backbone.embedding import patchify
from micro_diffusion.backbone.masking import random_keep
from micro_diffusion.representation.masked_autoencoder import MaskedAutoencoder
from micro_diffusion.representation.representation import regridded, similarity

SHAPE = {"input_size": 8, "in_channels": 4, "patch_size": 2, "dim": 32, "depth": 2, "head_dim": 16, "decoder_dim": 16}


def network(seed: int = 0, **changes) -> MaskedAutoencoder:
    torch.manual_seed(seed)
    made = MaskedAutoencoder(**{**SHAPE, **changes})
    for parameter in made.parameters():  # of which many start at zero
        torch.nn.init.normal_(parameter, std=0.2)
    return made


def some(size: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, 4, 8, 8, generator=generator), random_keep(torch.rand(size, 16, generator=generator), 0.75)


def test_masked_patches_are_not_seen_and_visible_ones_not_asked_for():
    latents, keep = some(1)
    model = network()
    other = latents.clone().requires_grad_()
    loss = model(other, keep)
    asked = patchify(torch.autograd.grad(loss.sum(), other)[0], 2)[0]
    assert torch.equal(model.features(latents, keep), model.features(latents * 1.0, keep))
    changed = latents.clone()
    masked = next(patch for patch in range(16) if patch not in keep[0])
    row, column = divmod(masked, 4)
    changed[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += 1
    assert torch.equal(model.features(changed, keep), model.features(latents, keep))
    assert not torch.allclose(model.features(changed), model.features(latents))
    assert asked[masked].abs().sum() > 0
    guess = patchify(latents, 2).square().mean(dim=2)
    silent = network()
    for parameter in silent.decoder_out.parameters():
        torch.nn.init.zeros_(parameter)
    hidden = [patch for patch in range(16) if patch not in keep[0]]
    torch.testing.assert_close(silent(latents, keep)[0], guess[0, hidden].mean())


def test_it_learns_what_visible_patches_tell_of_masked_ones():
    """Latents whose patches are all alike can be guessed from any of them; the variance is 1."""
    torch.manual_seed(0)
    model = MaskedAutoencoder(**SHAPE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(150):
        generator = torch.Generator().manual_seed(step)
        latents = torch.randn(16, 4, 1, 1, generator=generator).expand(-1, -1, 8, 8)
        loss = model(latents, random_keep(torch.rand(16, 16, generator=generator), 0.75)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2


def test_half_precision_is_near():
    latents, keep = some(8)
    model = network()
    with torch.autocast("cpu", torch.bfloat16):
        half = model(latents, keep)
    torch.testing.assert_close(half, model(latents, keep), rtol=0.1, atol=0)


def test_every_parameter_has_one_group():
    model = network()
    grouped = [id(p) for group in model.parameter_groups() for p in group["parameters"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"latents are \(4, 4, 4\)"):
        network().features(torch.zeros(1, 4, 4, 4))
    with pytest.raises(ValueError, match="dim is 24, no multiple of head_dim=16"):
        network(dim=24)


def test_features_on_another_grid_are_means():
    features = torch.arange(16.0).view(1, 16, 1)
    assert regridded(features, (4, 4), (2, 2))[0, :, 0].tolist() == [2.5, 4.5, 10.5, 12.5]
    assert regridded(features[:, :4], (2, 2), (4, 4))[0, :, 0].tolist() == [0, 0, 1, 1] * 2 + [2, 2, 3, 3] * 2
    assert regridded(features, (4, 4), (4, 4)) is features


def test_similarity_is_the_mean_cosine():
    ours = torch.tensor([[[1.0, 0.0], [3.0, 4.0]]])
    theirs = torch.tensor([[[0.0, 2.0], [6.0, 8.0]]])
    torch.testing.assert_close(similarity(ours, theirs), torch.tensor([0.5]))
