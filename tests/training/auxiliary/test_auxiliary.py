"""Losses beside the objective's: what they are, what they train, and where their networks are not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from micro_diffusion.autoencoder.kl import KLAutoencoder
from micro_diffusion.autoencoder.perceptual import Perceptual
from micro_diffusion.backbone.dit import SparseDiT
from micro_diffusion.backbone.embedding import patchify
from micro_diffusion.diffusion.edm import EDM
from micro_diffusion.training.auxiliary.alignment import RepresentationAlignment
from micro_diffusion.training.auxiliary.perceptual_x0 import DecodedDistance, Distance, FeatureDistance, PerceptualX0
from micro_diffusion.training.latent_diffusion import LatentDiffusion
from micro_diffusion.training.seeded_random import Draws

SHAPE: dict[str, Any] = {
    "input_size": 8, "in_channels": 4, "patch_size": 2, "dim": 32, "depth": 4, "head_dim": 16, "caption_dim": 6,
    "mixer_dim": 32, "mixer_depth": 1, "experts": 2, "multiple_of": 16,
}  # fmt: skip


class Encoder:
    """A linear map of patches, and how often it was asked."""

    dim = 5

    def __init__(self) -> None:
        torch.manual_seed(7)
        self.map, self.calls = nn.Linear(16, self.dim).requires_grad_(False), 0
        self.frozen: list[nn.Module] = [self.map]

    def features(self, latents: Tensor, grid: tuple[int, int]) -> Tensor:
        assert grid == (4, 4)
        self.calls += 1
        return self.map(patchify(latents, 2))


def alignment(**changes: Any) -> RepresentationAlignment:
    return RepresentationAlignment(**{"encoder": Encoder(), "dim": 32, "block": 2, "hidden": 8, **changes})


def make_model(auxiliary: Any = None, *, mask: float = 0.0, **changes: Any) -> LatentDiffusion:
    torch.manual_seed(0)
    backbone = SparseDiT(**{**SHAPE, **changes})
    for parameter in backbone.parameters():  # of which many start at zero
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.1)
    return LatentDiffusion(
        backbone=backbone,
        objective=EDM(sigma_data=1.0, P_mean=0.0, P_std=1.2),
        train_mask_ratio=mask,
        caption_drop=0.0,
        noise_bands=[1.0],
        cpu_precision="fp32",
        auxiliary=auxiliary,
    )


def drawn(model: LatentDiffusion, progress: float = 0.0, size: int = 3) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    batch = {
        "latents": torch.randn(size, 4, 8, 8, generator=generator),
        "caption_tokens": torch.randn(size, 5, 6, generator=generator),
        "caption_mask": torch.ones(size, 5, dtype=torch.bool),
    }
    return model.draw(batch, Draws.of(0, size=size, progress=progress))


def losses(model: LatentDiffusion, batch: dict[str, Any]) -> dict[str, Tensor]:
    found = model.loss(model(batch), batch)
    assert isinstance(found, dict)
    return found


def heard(model: LatentDiffusion, block: int, batch: dict[str, Any]) -> Tensor:
    """What a block returns, by a hook of this test."""
    seen: list[Tensor] = []
    hook = model.backbone.blocks[block - 1].register_forward_hook(lambda *call: seen.append(call[-1]))  # pyright: ignore
    model(batch)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize(("mask", "route", "kept"), [(0.0, None, False), (0.5, None, True), (0.5, (1, 3), True)])
@pytest.mark.parametrize("block", [2, 4])
def test_alignment_is_the_mean_cosine_of_the_patches_that_the_block_sees(mask, route, kept, block):
    loss = alignment(block=block)
    model = make_model({"repa": loss}, mask=mask, route=route)
    batch = drawn(model)
    tokens, features = heard(model, block, batch), loss.encoder.features(batch["latents"], (4, 4))
    if kept and not (route and block == 4):  # after the route there are all patches again
        rows = torch.arange(3)[:, None]
        features = features[rows, batch["keep"]]
    ours, theirs = loss.head(tokens), features
    assert ours.shape == theirs.shape
    cosine = (ours * theirs).sum(-1) / ours.norm(dim=-1) / theirs.norm(dim=-1)
    found = losses(model, batch)
    torch.testing.assert_close(found["repa"], 1 - cosine.mean())
    plain = make_model(mask=mask, route=route)
    own = plain.loss(plain(batch), batch)
    torch.testing.assert_close(found["objective"], own)
    torch.testing.assert_close(found["total"], own + 0.5 * found["repa"])


def test_it_trains_its_head_and_the_blocks_before_alone():
    loss = alignment()
    model = make_model({"repa": loss})
    losses(model, drawn(model))["repa"].backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in loss.parameters())
    blocks: Any = model.backbone.blocks  # pyright: ignore[reportAttributeAccessIssue]
    trained = [any(p.grad is not None for p in block.parameters()) for block in blocks]
    assert trained == [True, True, False, False]
    assert loss.encoder.frozen[0].weight.grad is None


def test_it_ends():
    """After its share it costs nothing, but its head has gradients of zero, for which other ranks wait."""
    loss = alignment(until=0.5)
    model = make_model({"repa": loss})
    assert losses(model, drawn(model, progress=0.49))["repa"] > 0
    calls, batch = loss.encoder.calls, drawn(model, progress=0.5)
    found = losses(model, batch)
    assert found["repa"] == 0 and torch.equal(found["total"], found["objective"])
    assert loss.encoder.calls == calls and loss.taps[0]._heard is None
    found["total"].backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in loss.parameters())


def test_blocks_that_are_computed_again_have_the_same_gradients_and_leave_nothing_behind():
    gradients = []
    for again in (False, True):
        model = make_model({"repa": alignment()}, activation_checkpointing=again)
        losses(model, drawn(model))["total"].backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
        assert model.auxiliary is not None and model.auxiliary.losses[0].taps[0]._heard is None
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


def test_a_compiled_network_is_heard_as_well():
    """As one graph, and by every step: what was heard when it was compiled is not what is heard later."""
    model = make_model({"repa": alignment(until=0.5)})
    batches = [drawn(model, size=2), drawn(model, size=2), drawn(model, progress=0.9, size=2)]
    batches[1] = {**batches[1], "latents": batches[1]["latents"] + 1}
    expected = [losses(model, batch)["repa"] for batch in batches]
    model.network.compile(fullgraph=True, backend="eager")
    for batch, value in zip(batches, expected, strict=True):
        torch.testing.assert_close(losses(model, batch)["repa"], value)
    assert expected[0] != expected[1] and expected[2] == 0


def test_frozen_networks_are_nowhere_and_heads_are_trained_but_no_part_of_the_network():
    model = make_model({"repa": alignment(), "look": looks(FeatureDistance(encoder=Encoder())), "none": None})
    heads = [f"auxiliary.repa.head.{layer}.{part}" for layer in (0, 2, 4) for part in ("weight", "bias")]
    assert [key for key in model.state_dict() if not key.startswith("network.")] == heads
    grouped = [id(p) for group in model.parameter_groups() for p in group["parameters"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    assert make_model().network.state_dict().keys() == model.network.state_dict().keys()
    assert make_model({"none": None}).auxiliary is None


def test_evaluation_is_of_the_objective_alone():
    model, plain = make_model({"repa": alignment()}).eval(), make_model().eval()
    batch = {key: value for key, value in drawn(plain).items() if key not in ("level_normal", "noise", "keep")}
    with torch.no_grad():
        ours, theirs = (m.eval_forward(m.draw_eval(batch, Draws.of(0, size=3))) for m in (model, plain))
    assert torch.equal(ours.per_sample, theirs.per_sample)
    assert model.auxiliary is not None and model.auxiliary.losses[0].encoder.calls == 0


def test_what_does_not_fit_is_one_sentence():
    with pytest.raises(ValueError, match="block of RepresentationAlignment is 5, but SparseDiT has 4 blocks"):
        make_model({"repa": alignment(block=5)})
    with pytest.raises(ValueError, match="has no list of blocks; choose one that it has, or leave the loss out"):
        alignment().attach(nn.Identity())  # pyright: ignore[reportArgumentType]
    for name in ("objective", "values"):
        with pytest.raises(ValueError, match=f"model.auxiliary.{name} has the name of something else"):
            make_model({name: alignment()})


def looks(distance: Distance, **changes: Any) -> PerceptualX0:
    return PerceptualX0(**{"distance": distance, "below": 1.0, "weight": 2.0, **changes})


@pytest.mark.parametrize("mask", [0.0, 0.5])
def test_what_is_predicted_is_compared_with_what_is_clean_at_low_noise(mask):
    """Only where it was predicted: masked patches are the clean ones, whose features agree."""
    encoder = Encoder()
    model = make_model({"look": looks(FeatureDistance(encoder=encoder))}, mask=mask)
    batch = drawn(model, size=8)
    found = losses(model, batch)
    own = model(batch).own
    low = own.sigma < 1
    assert 0 < low.sum() < 8
    cosine = nn.functional.cosine_similarity
    ours, theirs = (encoder.map(patchify(x, 2)) for x in (own.denoised, batch["latents"]))
    distance = 1 - cosine(ours, theirs, dim=-1)
    if mask:
        distance = distance * torch.zeros(8, 16).scatter(1, batch["keep"], 1.0)
    torch.testing.assert_close(found["look"], distance.mean(dim=1)[low].sum() / 8)
    torch.testing.assert_close(found["total"], found["objective"] + 2 * found["look"])
    found["look"].backward()
    assert all(p.grad is None for p in encoder.map.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.network.parameters())
    silent = make_model({"look": looks(FeatureDistance(encoder=encoder), below=1e-9)})
    assert losses(silent, drawn(silent))["look"] == 0


class Pixels(nn.Module):
    """In place of LPIPS, whose weights nobody ships: the squared error of pixels."""

    def forward(self, ours: Tensor, theirs: Tensor) -> Tensor:
        return (ours - theirs).square().mean(dim=(1, 2, 3), keepdim=True)


def test_images_are_compared_through_the_decoder(monkeypatch):
    monkeypatch.setattr(Perceptual, "load", lambda self: Pixels())
    torch.manual_seed(3)
    autoencoder = KLAutoencoder(width=8, decoder_blocks=1).requires_grad_(False)
    distance = DecodedDistance(autoencoder=autoencoder)
    ours, theirs = torch.randn(2, 4, 8, 8, requires_grad=True), torch.randn(2, 4, 8, 8)
    images = [autoencoder.reconstruct(latents) for latents in (ours, theirs)]
    found = distance(ours, theirs, (4, 4))
    torch.testing.assert_close(found, (images[0] - images[1]).square().mean(dim=(1, 2, 3)))
    assert torch.autograd.grad(found.sum(), ours)[0].abs().sum() > 0
    assert all(parameter.grad is None for parameter in autoencoder.parameters())
    with pytest.raises(ValueError, match="images of 8×8 pixels are too small for LPIPS with vgg, which takes 16"):
        distance(ours[..., :2, :2], theirs[..., :2, :2], (1, 1))
    with pytest.raises(ValueError, match="object decodes without gradients; choose another autoencoder"):
        DecodedDistance(autoencoder=object())  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(autoencoder.decode(theirs), images[1].clamp(-1, 1))
