"""A plan follows its formulae, its counts are those of real steps, and its prediction holds."""

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from composer import Callback
from hydra import compose, initialize_config_dir

from micro_diffusion import cli
from micro_diffusion.checkpoint import parameter_count
from micro_diffusion.cli.plan import STAGES
from micro_diffusion.data.format.caption_formats import CaptionFeatures
from micro_diffusion.data.prepare.random_latents import write_latents
from micro_diffusion.machine.precision import computes_in_bf16
from micro_diffusion.performance import plan as plan_module
from micro_diffusion.performance.cost import cost_of
from micro_diffusion.performance.counting import count_flops, count_saved_bytes
from micro_diffusion.performance.disk import DataSize, data_size
from micro_diffusion.performance.loading import bytes_per_sample
from micro_diffusion.performance.memory import LARGEST_LAYER, Memory, memory_of, saved_by
from micro_diffusion.performance.plan import (
    MACHINES,
    USABLE,
    Machine,
    machine_named,
    measure_stage,
    plan_stage,
    report,
    stage_configs,
)
from micro_diffusion.performance.timing import Timing, now
from micro_diffusion.performance.training_step import activation_bytes, build_model, random_batch, training_flops
from micro_diffusion.training.build import train
from micro_diffusion.training.config_checks.resolvers import register_resolvers
from micro_diffusion.training.seeded_random import Draws
from tests.small_training import make_latents

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALL = ["backbone.depth=2", "backbone.mixer_depth=1"]
ADAMW = ["optimizer=adamw", "optimizer.lr=1e-3"]
CPU = torch.device("cpu")

register_resolvers()


def config(stage="quickstart_32_pretrain", *overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(stage, overrides=list(overrides))


@pytest.mark.parametrize("mask_ratio", [0.0, 0.75])
def test_counts_are_those_of_a_real_step(mask_ratio):
    small = config("quickstart_32_pretrain", *SMALL, f"model.train_mask_ratio={mask_ratio}")
    model = build_model(small)
    model.cpu_precision = "fp32"
    batches = [model.draw(random_batch(small, size), Draws.of(0, size=size)) for size in (1, 2)]

    one, two = (count_saved_bytes(lambda batch=batch: model.loss(model(batch), batch), model) for batch in batches)
    assert activation_bytes(small) == two - one
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # whose products are all counted
        real = count_flops(lambda: model.loss(model(batches[0]), batches[0]).backward())
    assert training_flops(small) == real


@pytest.mark.parametrize("stage", ["ldm_vae_gan", "vae_256_lpips"])
def test_an_autoencoder_s_stage_counts_the_networks_of_its_loss_and_takes_epochs(stage):
    small = config(stage, "resolution=32", "model.crop=32")
    alone = config(stage, "resolution=32", "model.crop=32", "model.adversarial=null", "model.perceptual=null")
    with torch.device("meta"):
        model = build_model(small)
    plan = plan_stage("s", config(stage, "trainer.max_duration=3ep"), Machine(1, 1e12, 1e11), mfu=0.5, images=1000)
    batch = small.train_loader.batch_size
    assert plan.images == 3 * (1000 // batch) * batch
    trained = sum(p.numel() for p in model.parameters())
    assert plan.memory.fixed == (16 + 2) * trained + 4 * plan.memory.parameters  # no average of the discriminator
    assert training_flops(small) > 1.1 * training_flops(alone)
    assert activation_bytes(small) > activation_bytes(alone)


def test_the_formulae():
    small, machine = config("quickstart_64_finetune", *SMALL, *ADAMW), Machine(2, 1e12, 1e9)
    plan = plan_stage("s", small, machine, mfu=0.5)
    parameters = sum(p.numel() for p in build_model(small).parameters())
    memory = plan.memory
    assert memory.parameters == parameters
    assert plan.images == small.train_loader.batch_size * int(small.trainer.max_duration.removesuffix("ba"))
    assert plan.hours * 3600 == pytest.approx(plan.images * plan.flops_per_image / (2 * 1e12 * 0.5))
    assert memory.fixed == (16 + 4 + 2 + 4) * parameters  # with a moving average, bf16 copies, and DDP's buckets
    assert memory.checkpoint == 16 * parameters
    room = (1e9 * USABLE - memory.fixed) // memory.each
    assert plan.largest == min(room, small.train_loader.batch_size // 2)
    assert plan.microbatch == small.train_loader.batch_size // 2 and plan.fits == (plan.microbatch <= room)
    too_small = plan_stage("s", small, Machine(1, 1e12, 1e6), mfu=0.5)
    assert too_small.largest == 0 and not too_small.fits
    with pytest.raises(ValueError, match="batch_size of 32, which 3 devices cannot share equally; choose a number"):
        plan_stage("s", small, Machine(3, 1e12, 1e9), mfu=0.5)
    with pytest.raises(ValueError, match="MFU is 40"):
        plan_stage("s", small, machine, mfu=40)


def test_half_precision_halves_most_activations():
    small = config("quickstart_32_pretrain", *SMALL)
    assert 0.4 < activation_bytes(small, half=True) / activation_bytes(small) < 0.8


def test_checkpointing_keeps_less_and_computes_one_layer_again():
    small = config("quickstart_32_pretrain", *SMALL)
    checkpointed = config("quickstart_32_pretrain", *SMALL, "machine.activation_checkpointing=true")
    plain, economical = (memory_of(c, devices=1, half=True) for c in (small, checkpointed))
    assert economical.fixed == plain.fixed
    kept = activation_bytes(checkpointed, half=True)
    assert kept < plain.each and economical.each == kept + LARGEST_LAYER * plain.each // 3  # three layers
    assert training_flops(checkpointed) == training_flops(small) == training_flops(small, recomputed=True)
    by_adamw = config("quickstart_32_pretrain", *SMALL, *ADAMW, "machine.activation_checkpointing=true")
    planned = plan_stage("s", by_adamw, Machine(1, 1e12, 1e9), mfu=0.5).flops_per_image
    assert planned == training_flops(checkpointed, recomputed=True)
    assert 1.1 < planned / training_flops(small) < 4 / 3  # one forward of the layers more


def test_an_image_has_its_share_of_muon_s_step():
    muon, adamw = config("quickstart_32_pretrain", *SMALL), config("quickstart_32_pretrain", *SMALL, *ADAMW)
    (ours, none) = (plan_stage("s", c, Machine(2, 1e12, 1e9), mfu=0.5).flops_per_image for c in (muon, adamw))
    assert none == training_flops(adamw)
    assert ours - none == pytest.approx(cost_of(muon).update / muon.train_loader.batch_size) and ours > none


def test_weights_in_bf16_take_less():
    small = config("quickstart_32_pretrain", *SMALL, "~algorithms.ema", *ADAMW)
    compact = config("quickstart_32_pretrain", *SMALL, "~algorithms.ema", *ADAMW, "model.weight_dtype=bf16")
    plain, half = (memory_of(c, devices=2, half=True) for c in (small, compact))
    assert plain.fixed == (16 + 2 + 4) * plain.parameters
    assert half.fixed == pytest.approx((12 + 2) * plain.parameters, rel=0.02)  # vectors are in fp32
    assert half.checkpoint == pytest.approx(10 * plain.parameters, rel=0.02)


def test_frozen_weights_take_themselves_alone():
    small = config("quickstart_32_pretrain", *SMALL, "~algorithms.ema", *ADAMW, "adapter=lora", "init_from=earlier")
    network = build_model(small).network
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    frozen = parameter_count(network) - trained
    plan = memory_of(small, devices=1, half=True)
    assert plan.fixed == (4 + 2) * frozen + (16 + 2) * trained
    assert plan.checkpoint == 4 * frozen + 12 * trained
    assert saved_by(small, frozen + trained, trained) == (4 * frozen + 12 * trained, 4 * (frozen + trained))
    averaged = config("quickstart_32_pretrain", *SMALL, *ADAMW, "adapter=lora", "init_from=earlier")
    assert memory_of(averaged, devices=1, half=True).fixed == plan.fixed + 4 * trained


def test_moments_of_eight_bits_take_two_bytes():
    small = config("quickstart_32_pretrain", *SMALL, "~algorithms.ema", *ADAMW, "optimizer=adamw_8bit")
    plan = memory_of(small, devices=1, half=True)
    assert (4 + 4 + 2 + 2) * plan.parameters < plan.fixed < 1.05 * (4 + 4 + 2 + 2) * plan.parameters


def test_muon_keeps_one_momentum_of_a_hidden_matrix():
    small = config("quickstart_32_pretrain", *SMALL, "~algorithms.ema")
    groups = build_model(small).parameter_groups()
    sizes = [(4 if group["matrices"] else 8) * p.numel() for group in groups for p in group["parameters"]]
    muon = memory_of(small, devices=1, half=True)
    assert sum(sizes) < 6 * muon.parameters
    assert muon.fixed == (8 + 2) * muon.parameters + sum(sizes)
    assert muon.checkpoint == 4 * muon.parameters + sum(sizes)


def test_shards_divide_the_state_and_gather_two_layers():
    small = config("quickstart_32_pretrain", *SMALL, "parallelism=fsdp", "~algorithms.ema", *ADAMW)
    network = build_model(small).network
    blocks = [*network.get_submodule("mixer").children(), *network.get_submodule("blocks").children()]
    parameters, layers = parameter_count(network), [parameter_count(block) for block in blocks]
    gathered = 2 * max(layers) + parameters - sum(layers)
    assert memory_of(small, devices=4, half=True).fixed == 16 * parameters // 4 + 2 * parameters + 4 * gathered
    assert memory_of(small, devices=4, half=True).sampling == 16 * parameters // 4 + 4 * parameters
    small.parallelism.fsdp.replicas = 2
    assert memory_of(small, devices=4, half=True).fixed == 16 * parameters // 2 + 2 * parameters + 4 * gathered


PRESETS = [
    ("12gb", 1, "tiny"),
    *(
        pytest.param(*preset, marks=pytest.mark.slow)  # 40 counts of a large network
        for preset in [
            ("24gb", 1, "tiny"),
            ("12gb", 4, "xl"),
            ("24gb", 2, "xl"),
            ("80gb", 1, "xl"),
            ("80gb", 8, "xl"),
            ("141gb", 1, "xl"),
            ("141gb", 8, "xl"),
        ]
    ),
]


@pytest.mark.parametrize(("preset", "devices", "backbone"), PRESETS)
def test_a_machine_preset_fits_for_all_four_stages(preset, devices, backbone):
    stages = stage_configs(CONFIGS, STAGES, [f"machine={preset}", f"backbone={backbone}"])
    room = USABLE * float(preset.removesuffix("gb")) * 1e9
    needed = {}
    for stage, composed in stages.items():
        memory = memory_of(composed, devices=devices, half=True)
        needed[stage] = memory.needed(composed.trainer.device_train_microbatch_size)
    assert {stage: size / room for stage, size in needed.items() if size > room} == {}


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "machine"), [("finetune_24gb", "4090"), ("finetune_12gb", "4070")])
def test_a_preset_for_fine_tuning_fits_its_gpu(stage, machine):
    composed = stage_configs(CONFIGS, [stage], [])[stage]
    memory = memory_of(composed, devices=1, half=True)
    needed = memory.needed(composed.trainer.device_train_microbatch_size)
    assert 0.5 * MACHINES[machine].memory < needed < USABLE * MACHINES[machine].memory


def test_what_sampling_needs_is_needed():
    memory = Memory(parameters=1, fixed=10, each=2, sampling=15, checkpoint=1)
    assert [memory.needed(images) for images in (1, 2, 3)] == [15, 15, 16]
    assert (memory.largest_microbatch(20), memory.largest_microbatch(14)) == (5, 0)


def test_a_cpu_is_planned_by_its_own_rate():
    machine = machine_named("cpu")
    assert machine.flops_per_second > 1e9 and machine.memory > 1e9
    assert machine.half == computes_in_bf16("cpu")  # activations as the products whose rate it is
    assert machine_named("h200", 16) == Machine(16, 989e12, 141e9)
    with pytest.raises(ValueError, match=r"no plan for the machine 'abacus'; choose one of h100, .*, cpu, here"):
        machine_named("abacus")


CELLS = 4 * 32**2 + 4 * 64**2


@pytest.mark.parametrize(
    ("formats", "numbers"),
    [
        ((None, None), 2 * CELLS + 2 * 77 * 1024),
        (("int8", None), CELLS + 2 * 4 * 4 + 2 * 77 * 1024),  # a scale for each channel
        (("int8", "int8_unpadded"), CELLS + 2 * 4 * 4 + 30 * (1024 + 4)),
        (("uint8", "token_ids"), CELLS + 2 * 77),
    ],
)
def test_disk_counts_every_resolution_once_in_the_formats_asked_for(formats, numbers):
    latents, captions = formats
    asked = {"images": 10, "latents": latents, "captions": captions, "tokens": 30}
    data = data_size([config(stage) for stage in STAGES], configs=CONFIGS, **asked)
    assert 0 < data.each - numbers < 250  # text, key, and the positions of both
    assert data.total == 10 * data.each
    assert str(data).startswith("0 GB for 10 images")


def test_disk_is_that_of_the_data_that_are_there(tmp_path):
    captions = CaptionFeatures(dtype="int8", padded=False)
    folder = write_latents(tmp_path / "latents", samples=20, captions=captions)
    stages = [config(stage, f"train_loader.path={folder}") for stage in STAGES]
    asked = {"configs": CONFIGS, "images": 10, "tokens": 20}
    there = data_size(stages, **asked, latents=None, captions=None)
    assert there.each == bytes_per_sample(folder) and there.basis == f"as in {folder}"
    planned = data_size(stages, **asked, latents="float16", captions="int8_unpadded")
    assert planned.each == pytest.approx(there.each, rel=0.01)
    with pytest.raises(ValueError, match="no latent_format int4 in .*; choose one of float16, int8, pixels, uint8"):
        data_size(stages, **asked, latents="int4", captions=None)


def test_the_command_prints_a_table(capsys):
    arguments = ["plan", "quickstart_32_pretrain", "quickstart_64_finetune", "--price", "2", "--formulae"]
    arguments += ["--latent-format", "int8"]
    assert cli.main([*arguments, "--configs", str(CONFIGS), "--set", "backbone.depth=2"]) == 0
    printed = capsys.readouterr().out
    assert "quickstart_32_pretrain" in printed and "together" in printed and "8 devices" in printed
    assert "MFU of 0.4" in printed and "checkpoint  = state without the gradient" in printed
    assert "bytes each (latents as int8, captions of 20 tokens as float16)" in printed
    assert cli.main(["plan", "--configs", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "problem"),
    [("seed=[1", "the override 'seed=[1' cannot be read"), ("nokey.x=3", "nothing takes the key nokey")],
)
def test_an_override_that_is_no_good_is_one_sentence(capsys, override, problem):
    assert cli.main(["plan", "quickstart_32_pretrain", "--configs", str(CONFIGS), "--set", override]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"micro-diffusion: error: {problem}") and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--machine", "here", "--mfu", "0.5"], "--mfu has no effect with --machine here, which is measured; leave it"),
        (["--machine", "here", "--devices", "2"], "--devices has no effect with --machine here"),
        (["--batch-size", "4"], "--batch-size has no effect without --machine here; leave it out"),
    ],
)
def test_options_without_effect_are_refused(capsys, options, problem):
    assert cli.main(["plan", *options, "--configs", str(CONFIGS)]) == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize("price", ["-3", "nan", "inf"])
def test_a_price_is_a_number_of_dollars(capsys, price):
    assert cli.main(["plan", "--price", price]) == 2
    assert f"--price: {price} is no price; use a number of dollars of at least 0" in capsys.readouterr().err


def test_the_report_adds_up():
    plan = plan_stage("s", config("quickstart_32_pretrain", *SMALL), MACHINES["4090"], mfu=1e-4)
    printed = report([plan, plan], devices=8, price=3.0, data=DataSize(1000, 1e6, "so")).splitlines()
    assert printed[3].split()[-1] == f"{2 * plan.hours * 8 * 3:,.0f}"
    assert printed[-1].startswith("disk: 1 GB for 1,000 images, 1,000,000 bytes each (so); ")


@pytest.mark.parametrize(
    ("microbatch", "room", "rate", "asked", "timed"),
    [
        ("null", 1e12, 1e15, None, 64),  # the whole batch
        (16, 1e12, 1e15, None, 16),
        (16, 1e12, 5, None, 10),  # images that the machine multiplies in TIMED_SECONDS
        (16, 1e12, 0.1, None, 1),
        (16, 1.0, 1e15, None, 1),  # what does not fit is not tried
        (16, 1e12, 1e15, 7, 7),
    ],
)
def test_the_microbatch_is_timed_and_one_update_a_batch(monkeypatch, microbatch, room, rate, asked, timed):
    sizes = []

    class Step:
        def __init__(self, *, batch_size, **_):
            sizes.append(batch_size)

        def backward(self) -> None: ...

        def update(self) -> None: ...

    small = config("quickstart_32_pretrain", *SMALL, f"trainer.device_train_microbatch_size={microbatch}")
    monkeypatch.setattr(plan_module, "TrainingStep", Step)
    monkeypatch.setattr(plan_module, "this_machine", lambda device: Machine(1, rate * training_flops(small), room))
    monkeypatch.setattr(plan_module, "measure_in_turn", lambda parts, **_: [Timing(2.0, 0, 0), Timing(3.0, 0, 0)])
    plan = measure_stage("s", small, device=CPU, batch_size=asked)
    assert sizes == [timed] and plan.timed == timed
    assert plan.images_per_second == pytest.approx(64 / (64 / timed * 2 + 3))


class Clock(Callback):
    """Notes the processor time at the end of every step."""

    ends: ClassVar[list[float]] = []

    def batch_end(self, state, logger) -> None:
        self.ends.append(now(CPU, "process"))


@pytest.mark.slow
def test_a_measured_plan_predicts_a_training(tmp_path):
    """With loader, clipping, average, monitors and Composer; start, drawing and checkpoints are no part of a plan."""
    make_latents(tmp_path, count=128, resolution=64)
    asked = [f"output_dir={tmp_path}/runs", f"train_loader.path={tmp_path}/latents", "eval_loader=null", "machine=cpu"]
    asked += ["trainer.max_duration=40ba", "algorithms.ema.start=5ba", "prompts.captions=[a circle]", "sampler.steps=1"]
    training = config("quickstart_64_pretrain", *asked, f"+callbacks.clock._target_={__name__}.Clock")
    plan = measure_stage("s", training, device=CPU, clock="process")  # else as the command does
    train(training)
    taken = (Clock.ends[-1] - Clock.ends[9]) / (len(Clock.ends) - 10)
    assert plan.hours * 3600 / 40 == pytest.approx(taken, rel=0.15)
