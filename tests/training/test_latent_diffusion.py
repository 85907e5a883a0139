import math
from types import SimpleNamespace

import pytest
import torch
from composer import Timestamp
from composer.devices import DeviceCPU, DeviceGPU
from torch import nn

from micro_diffusion.backbone.backbone import Prediction
from micro_diffusion.backbone.dit import SparseDiT
from micro_diffusion.condition import Condition
from micro_diffusion.diffusion.edm import EDM
from micro_diffusion.diffusion.known_region import KnownRegion
from micro_diffusion.diffusion.low_resolution import LowResolution
from micro_diffusion.text.tiny import TinyTextEncoder
from micro_diffusion.training.callbacks.seeded_draws import SeededDraws
from micro_diffusion.training.latent_diffusion import BandLoss, LatentDiffusion
from micro_diffusion.training.seeded_random import Draws


class Recorder(nn.Module):
    """A backbone that predicts a constant and remembers what it was given."""

    in_channels, patch_size, caption_dim, patches, use_caption_mask = 3, 2, 6, 16, False
    image_channels, takes_image_level, takes_keep = 0, False, True

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))
        self.seen = []

    def forward(self, x, level, text, keep=None):
        self.seen.append((x, level, text, keep))
        return Prediction(self.weight * x)

    def parameter_groups(self):
        return [{"name": "all", "parameters": [self.weight], "lr_scale": 1.0, "decay": False, "matrices": False}]


def make_model(backbone=None, **changes):
    arguments = {
        "train_mask_ratio": 0.5,
        "caption_drop": 0.5,
        "noise_bands": [0.2, 1.0],
        "cpu_precision": "fp32",
    } | changes
    objective = EDM(sigma_data=0.9, P_mean=-0.6, P_std=1.2)
    return LatentDiffusion(backbone=backbone or Recorder(), objective=objective, **arguments)


def make_batch(size=8):
    generator = torch.Generator().manual_seed(1)
    return {
        "latents": torch.randn(size, 3, 8, 8, generator=generator),
        "caption_tokens": torch.randn(size, 5, 6, generator=generator),
        "caption_mask": torch.ones(size, 5, dtype=torch.bool),
        "caption": [str(i) for i in range(size)],
    }


def draws(*origin, size=8):
    return Draws.of(*origin, size=size)


def equal(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(v, b[k]) if isinstance(v, torch.Tensor) else v == b[k] for k, v in a.items()
    )


def test_draws_follow_from_their_origin_alone():
    model, batch = make_model(), make_batch()
    first = model.draw(batch, draws(0, "train", 3))
    torch.manual_seed(123)
    assert equal(first, model.draw(batch, draws(0, "train", 3)))
    for other in [(1, "train", 3), (0, "train", 4), (0, "eval", 3)]:
        assert not torch.equal(first["noise"], model.draw(batch, draws(*other))["noise"])


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_batch_has_the_same_draws_on_any_number_of_ranks(ranks):
    model, batch = make_model(), make_batch()
    for draw in (model.draw, model.draw_eval):
        whole = draw(batch, draws(0, "train", 3))
        for rank in range(ranks):
            share = {key: value[rank::ranks] for key, value in batch.items()}
            drawn = draw(share, Draws.of(0, "train", 3, size=8 // ranks, rank=rank, ranks=ranks))
            assert equal(drawn, {key: value[rank::ranks] for key, value in whole.items()})


def test_drawing_leaves_the_global_generator_and_the_batch_alone():
    model, batch = make_model(), make_batch()
    copy, state = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}, torch.get_rng_state()
    drawn = model.draw(batch, draws(0))
    assert equal(batch, copy) and torch.equal(torch.get_rng_state(), state)
    assert drawn["caption_tokens"] is batch["caption_tokens"]  # in pinned memory, for a GPU


def test_captions_are_dropped_at_their_rate_where_the_loss_is_computed():
    model, batch = make_model(caption_drop=0.3), make_batch(1000)
    model(drawn := model.draw(batch, draws(0, size=1000)))
    assert drawn["caption_dropped"].float().mean().item() == pytest.approx(0.3, abs=0.05)
    _, _, text, _ = model.backbone.seen[0]
    assert torch.equal((text.tokens == 0).flatten(1).all(dim=1), drawn["caption_dropped"])


@pytest.mark.parametrize(("probability", "share"), [(0.0, 0), (1.0, 1)])
def test_no_caption_is_dropped_or_every_one(probability, share):
    drawn = make_model(caption_drop=probability).draw(make_batch(), draws(0))
    assert drawn["caption_dropped"].float().mean() == share


@pytest.mark.parametrize("event", ["after_dataloader", "eval_batch_start"])
def test_a_gpu_gets_its_batch_in_pinned_memory(monkeypatch, event):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: None)
    clock = {"timestamp": Timestamp(), "eval_timestamp": Timestamp(), "get_elapsed_duration": lambda: None}
    state = SimpleNamespace(model=make_model(), **clock)
    for device, left in ((DeviceCPU(), True), (DeviceGPU.__new__(DeviceGPU), False)):
        state.device, state.batch = device, make_batch()
        getattr(SeededDraws(seed=0), event)(state, None)
        assert any(isinstance(value, torch.Tensor) for value in state.batch.values()) == left
        assert state.batch["caption"] == make_batch()["caption"] and "noise" in state.batch


def test_mask_keeps_its_share_of_patches_and_none_is_no_mask():
    batch = make_batch()
    assert make_model(train_mask_ratio=0.75).draw(batch, draws(0))["keep"].shape == (8, 4)
    assert "keep" not in make_model(train_mask_ratio=0.0).draw(batch, draws(0))


def test_loss_and_gradients_do_not_depend_on_the_microbatches():
    backbone = SparseDiT(
        input_size=8, in_channels=3, patch_size=2, dim=16, depth=2, head_dim=8, caption_dim=6, multiple_of=8,
        mixer_depth=1, mixer_dim=16, experts=2,
    )  # fmt: skip
    nn.init.normal_(backbone.final.weight)
    model = make_model(backbone)
    drawn = model.draw(make_batch(), draws(0))
    whole = model(drawn).per_sample
    parts = [model({k: v[i : i + 3] for k, v in drawn.items()}).per_sample for i in range(0, 8, 3)]
    torch.testing.assert_close(whole, torch.cat(parts))
    torch.testing.assert_close(model.loss(model(drawn), drawn), whole.mean())

    model.loss(model(drawn), drawn).backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    for i in range(0, 8, 2):
        part = {key: value[i : i + 2] for key, value in drawn.items()}
        (model.loss(model(part), part) / 4).backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)


def test_evaluation_sees_every_patch_and_caption_at_evenly_spread_levels():
    model, batch = make_model(), make_batch(99)
    drawn = model.draw_eval(batch, draws(0, "eval", 0, size=99))
    outputs = model.eval_forward(drawn)
    level = drawn["level_normal"]
    assert "keep" not in drawn and torch.equal(drawn["caption_tokens"], batch["caption_tokens"])
    torch.testing.assert_close(level, -level.flip(0))
    torch.testing.assert_close(torch.special.ndtr(level).diff(), torch.full((98,), 1 / 99))
    torch.testing.assert_close(outputs.sigma.log(), level * 1.2 - 0.6)
    again = model.eval_forward(model.draw_eval(batch, draws(0, "eval", 0, size=99)))
    assert torch.equal(outputs.per_sample, again.per_sample)


def test_evaluation_loss_is_reported_by_noise_band():
    model, batch = make_model(), make_batch(40)
    outputs = model.eval_forward(model.draw_eval(batch, draws(0, size=40)))
    metrics = model.get_metrics(is_train=False)
    for metric in metrics.values():
        model.update_metric(batch, outputs, metric)
    assert list(metrics) == ["loss", "loss_sigma_0-0.2", "loss_sigma_0.2-1", "loss_sigma_1-inf"]
    torch.testing.assert_close(metrics["loss"].compute(), outputs.per_sample.mean())
    inside = (outputs.sigma >= 0.2) & (outputs.sigma < 1)
    torch.testing.assert_close(metrics["loss_sigma_0.2-1"].compute(), outputs.per_sample[inside].mean())


def test_an_empty_band_has_no_mean():
    metric = BandLoss(5.0, 6.0)
    metric.update(torch.ones(2), torch.tensor([4.0, 6.0]))
    assert math.isnan(metric.compute())


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, 0.99])
def test_impossible_mask_ratio_is_refused(ratio):
    with pytest.raises(ValueError, match=r"mask ratio"):
        make_model(train_mask_ratio=ratio)


def test_something_that_is_no_backbone_is_refused():
    with pytest.raises(ValueError, match="Linear is no backbone"):
        make_model(nn.Linear(1, 1))


class SeesImages(Recorder):
    """The same with a conditioning image."""

    image_channels = 4


class SeesSmallerImages(Recorder):
    """The same with one that has a level."""

    image_channels, takes_image_level = 3, True


CONDITIONED = [(SeesImages, KnownRegion(loss_in_unknown_only=True)), (SeesSmallerImages, LowResolution(factor=2))]


@pytest.mark.parametrize(("backbone", "conditioner"), CONDITIONED)
def test_an_image_is_made_of_the_draws_and_seen_beside_the_same_noise(backbone, conditioner):
    batch, plain = make_batch(), make_model()
    model = make_model(backbone(), image_conditioner=conditioner)
    for draw, without in ((model.draw, plain.draw), (model.draw_eval, plain.draw_eval)):
        whole, other = draw(batch, draws(0)), without(batch, draws(0))
        assert all(torch.equal(whole[key], other[key]) for key in ("level_normal", "noise"))
        share = {key: value[1::2] for key, value in batch.items()}
        assert equal(draw(share, Draws.of(0, size=4, rank=1, ranks=2)), {key: v[1::2] for key, v in whole.items()})
        model(whole)
        condition = model.backbone.seen[-1][2]
        assert torch.equal(condition.image, whole["image"])
        assert (condition.image_level is not None) == conditioner.tells_level
    parts = [model({k: v[i : i + 3] for k, v in whole.items()}).per_sample for i in range(0, 8, 3)]
    torch.testing.assert_close(model(whole).per_sample, torch.cat(parts))


def test_a_dropped_caption_keeps_its_image():
    model = make_model(SeesSmallerImages(), image_conditioner=LowResolution(factor=2), caption_drop=1.0)
    model(drawn := model.draw(make_batch(), draws(0)))
    condition = model.backbone.seen[0][2]
    assert condition.tokens.abs().sum() == 0 and torch.equal(condition.image, drawn["image"])
    assert torch.equal(condition.image_level, drawn["image_level"])


def test_the_loss_of_known_cells_does_not_count_where_that_is_asked_for():
    losses = []
    for only in (False, True):
        model = make_model(SeesImages(), image_conditioner=KnownRegion(loss_in_unknown_only=only), train_mask_ratio=0)
        losses.append(model(model.draw(make_batch(), draws(0))).per_sample)
    assert not torch.allclose(*losses) and all(loss.isfinite().all() for loss in losses)


@pytest.mark.parametrize(
    ("backbone", "conditioner", "message"),
    [
        (Recorder, KnownRegion(), "image_channels is 0, .* model.image_conditioner gives 4; set backbone.image_chan"),
        (SeesImages, None, "image_channels is 4, .* model.image_conditioner is null, .* set backbone.image_channels=0"),
        (SeesImages, LowResolution(factor=2), "image_channels is 4, .* gives 3; set backbone.image_channels=3"),
    ],
)
def test_a_backbone_of_other_images_is_refused(backbone, conditioner, message):
    with pytest.raises(ValueError, match=message):
        make_model(backbone(), image_conditioner=conditioner)


def test_an_image_level_that_nobody_is_told_or_makes_is_refused():
    quiet = type("Quiet", (SeesSmallerImages,), {"takes_image_level": False})
    with pytest.raises(ValueError, match=r"takes_image_level is false, but model\.image_conditioner tells the noise"):
        make_model(quiet(), image_conditioner=LowResolution(factor=2))
    told = type("Told", (SeesImages,), {"takes_image_level": True})
    with pytest.raises(ValueError, match=r"takes_image_level is true, but model\.image_conditioner tells no noise"):
        make_model(told(), image_conditioner=KnownRegion())


def test_a_backbone_without_masked_patches_trains_without_them():
    whole = type("Whole", (Recorder,), {"takes_keep": False})
    with pytest.raises(ValueError, match=r"train_mask_ratio is 0\.5, but Whole cannot leave out patches; set model"):
        make_model(whole())
    assert "keep" not in make_model(whole(), train_mask_ratio=0.0).draw(make_batch(), draws(0))


class Embedding:
    """A text encoder of one table; remembers where it was put."""

    name, dim, max_length = "table", 6, 5

    def __init__(self):
        self.provenance, self.device = {"model": "table"}, None
        self.table = torch.randn(100, 6, generator=torch.Generator().manual_seed(2))

    def tokenize(self, captions):
        raise NotImplementedError

    def encode(self, captions):
        raise NotImplementedError

    def encode_ids(self, text):
        return Condition(self.table[text.ids], text.mask)

    def to(self, device):
        self.device = device


def test_token_ids_train_as_the_features_that_they_stand_for():
    encoder, batch = Embedding(), make_batch()
    ids = torch.randint(100, (8, 5), generator=torch.Generator().manual_seed(3))
    features = batch | {"caption_tokens": encoder.table[ids]}
    del batch["caption_tokens"]
    stored, computed = make_model(), make_model(text_encoder=encoder)
    for draw in ("draw", "draw_eval"):
        expected = getattr(stored, draw)(features, draws(0))
        actual = getattr(computed, draw)(batch | {"caption_ids": ids}, draws(0))
        assert equal(actual, expected)
    assert encoder.device == torch.device("cpu")
    assert computed.state_dict().keys() == stored.state_dict().keys()
    assert not any(parameter is encoder.table for parameter in computed.parameters())


def test_a_text_encoder_without_token_ids_is_refused():
    with pytest.raises(ValueError, match=r"tiny-6 has no token ids; set model\.text_encoder=null"):
        make_model(text_encoder=TinyTextEncoder(dim=6))


def test_training_sees_random_squares_and_evaluation_whole_latents():
    model, batch = make_model(train_crop=4, train_mask_ratio=0.0), make_batch()
    seen = model.draw(batch, draws("train", 0))
    assert seen["latents"].shape == seen["noise"].shape == (8, 3, 4, 4)
    corners = []
    for whole, square in zip(batch["latents"], seen["latents"], strict=True):
        windows = whole.unfold(1, 4, 1).unfold(2, 4, 1).permute(1, 2, 0, 3, 4)
        corners += (windows == square).all(dim=(2, 3, 4)).nonzero().tolist()
    assert len(corners) == 8
    assert len({tuple(corner) for corner in corners}) > 3
    assert torch.equal(model.draw(batch, draws("train", 0))["latents"], seen["latents"])
    assert model.draw_eval(batch, draws("eval", 0))["latents"] is batch["latents"]
    with pytest.raises(ValueError, match="model.train_crop is 9, but the latents have 8×8 cells"):
        make_model(train_crop=9, train_mask_ratio=0.0).draw(batch, draws("train", 0))


def test_runs_of_several_objectives_are_evaluated_alike():
    """At the levels of the objective that measures, without contrast; training keeps its own."""
    measure, batch = EDM(sigma_data=0.9, P_mean=1.0, P_std=0.5), make_batch()
    model, plain = make_model(eval_objective=measure, contrast=0.1), make_model(train_mask_ratio=0.5)
    drawn = model.draw_eval(batch, draws("eval", 0))
    torch.testing.assert_close(model.eval_forward(drawn).sigma, measure.training_sigma(drawn["level_normal"]))
    assert (model.eval_forward(drawn).per_sample >= 0).all()
    drawn = model.draw(batch, draws(0))
    torch.testing.assert_close(model(drawn).sigma, plain(drawn).sigma)
    assert not torch.allclose(model(drawn).per_sample, plain(drawn).per_sample)


def test_a_falling_share_is_masked():
    model, batch = make_model(train_mask_ratio=0.75, final_mask_ratio=0.0), make_batch()
    for progress, kept in ((0.0, 4), (0.5, 10)):
        assert model.draw(batch, Draws.of(0, size=8, progress=progress))["keep"].shape == (8, kept)
    assert "keep" not in model.draw(batch, Draws.of(0, size=8, progress=1.0))
    with pytest.raises(ValueError, match=r"keeps none of 16 patches"):
        make_model(final_mask_ratio=0.99)


@pytest.mark.parametrize(("event", "same"), [("after_dataloader", False), ("eval_batch_start", True)])
def test_evaluations_of_all_seeds_draw_the_same(event, same):
    clock = {"timestamp": Timestamp(), "eval_timestamp": Timestamp(), "get_elapsed_duration": lambda: None}
    drawn = []
    for seed in (1, 2):
        state = SimpleNamespace(model=make_model(), device=DeviceCPU(), batch=make_batch(), **clock)
        getattr(SeededDraws(seed=seed), event)(state, None)
        drawn.append(state.batch["noise"])
    assert torch.equal(*drawn) == same
