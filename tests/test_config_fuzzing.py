"""Random overrides of every stage: what is wrong is one sentence, what is right builds.

A stage is composed and built on the meta device, within the same handler of errors as train.py's.
"""

import string
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from micro_diffusion.doctor.examination import all_stages
from micro_diffusion.doctor.stage import build_on_meta
from micro_diffusion.training.errors import one_sentence_errors
from micro_diffusion.training.resolvers import register_resolvers
from micro_diffusion.training.schema import ROOT
from tests.forked_process import run_script

ROOT_FOLDER = Path(__file__).resolve().parents[1]
STAGES = all_stages(ROOT_FOLDER / "configs")
DIFFUSION = [stage for stage in STAGES if stage != "train_autoencoder"]


def fuzz(examples: int) -> settings:
    """The same examples at every run."""
    health = [HealthCheck.function_scoped_fixture]
    return settings(max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=health)


@pytest.fixture(scope="module", autouse=True)
def hydra():
    register_resolvers()
    with initialize_config_dir(str(ROOT_FOLDER / "configs"), version_base="1.3"):
        yield


def build(stage: str, overrides: list[str]) -> None:
    with one_sentence_errors():
        build_on_meta(compose(stage, overrides=overrides))


def pairs(values: Mapping[str, Sequence]) -> st.SearchStrategy[str]:
    """`key=value` with one of the key's values."""
    return st.sampled_from([f"{key}={value}" for key, options in values.items() for value in options])


NAMES = st.text(string.ascii_lowercase, min_size=4, max_size=9).filter(lambda name: name not in ROOT)
TEXTS = ["abc", "[1]", "true", "null", "{a: 1}", "'1'"]
INTEGERS = ["seed", "resolution", "train_loader.batch_size", "eval_loader.workers"]
NUMBERS = ["optimizer.lr", "algorithms.gradient_clipping.clipping_threshold"]
WHOLE_OF_DIFFUSION = ["backbone.dim", "backbone.depth", "backbone.patch_size", "sampler.steps", "prompts.seed"]
NUMBERS_OF_DIFFUSION = ["model.train_mask_ratio", "model.caption_drop", "objective.sigma_data", "objective.P_mean"]

WRONG = {
    "resolution": [0, -64],
    "train_loader.batch_size": [0, -8],
    "optimizer.lr": [-1, "nan"],
    "trainer.max_duration": ["ten", "0ba", "-5ba", "[1]"],
    "trainer.eval_interval": ["often", 0],
    "trainer.load_path": ["elsewhere.pt"],
    "trainer.compile_config": ["yes", 3],
    "trainer.device_train_microbatch_size": ["auto", 0, -4],
    "trainer.save_num_checkpoints_to_keep": [0, -2],
    "init_weights": ["raw", "best"],
    "exp_name": ["../up", "/tmp/x", 2024, "'???'"],
    "machine": ["abacus", "null"],
    "callbacks": ["none", "3"],
    "trust_checkpoint": ["true", "maybe"],
    "output_dir": ["s3://me:my-password@host", "hf_aaaaaaaaaaaaaaaaaaaaaaaaaaaa"],
    "schedule.t_max": ["9ba"],
    "seed": [-1, 2**32, "${nowhere}", "${oc.env:IT_IS_NOT_SET}", "${divide:7,2}", "${divide:7,0}"],
    "optimizer.eps": [-1, "inf"],
    "optimizer.weight_decay": [-1],
    "optimizer.betas": ["[0.9,1]", "[-0.1,0.9]", "[0.9]"],
    "+schedule.t_warmup": ["-5ba", "''"],
    "+schedule.alpha_f": [-1],
    "callbacks.progress_lines.interval": ["-1ba", "''", "often"],
    "callbacks.speed_monitor.window_size": [0],
    "callbacks.optimizer_monitor.batch_log_interval": [0],
    "trainer.dist_timeout": [0, -1],
}
WRONG_OF_DIFFUSION = {
    "resolution": [33, 1001],
    "model.train_mask_ratio": [-0.1, 1, 1.5, "nan"],
    "model.caption_drop": [-0.5, 2],
    "model.noise_bands": ["[2,1]", "[0]", "[-1,1]", "3"],
    "model.cpu_precision": ["fp16", "8"],
    "objective.sigma_data": [0, -1],
    "objective.P_std": [-1],
    "+objective.sigma_min": [0, 90],
    "sampler.steps": [0, -3],
    "+sampler.rho": [0, -7],
    "backbone.dim": [0, -32, 33],
    "backbone.mixer_dim": [0, -32],
    "backbone.input_size": [0],
    "backbone.multiple_of": [0],
    "backbone.experts": [-1],
    "backbone.depth": [0, -1],
    "backbone.head_dim": [0, 7, -32],
    "backbone.patch_size": [0, 3, -2],
    "backbone.mixer_depth": [-1],
    "backbone.position_scale": [0, -1, "inf"],
    "+backbone.experts_every": [0],
    "prompts.captions": ["[]", "one", "[1,2]"],
    "prompts.guidance_scale": ["inf", "nan"],
    "callbacks.image_logger.resolution": [0],
    "callbacks.image_logger.batch_size": [0],
    "text_encoder": ["bert"],
    "sampler": ["ddim", "null"],
    "backbone": ["huge"],
    "autoencoder": ["null"],
}
SYNTAX = st.sampled_from(
    ["seed", "=3", "seed=[1", "seed={a:", "~nothing", "++", "seed=1=2:]", "model.=3", "+seed=3", "@=1", "a b=c d"]
)
UNKNOWN = NAMES.flatmap(
    lambda name: st.sampled_from(
        [
            *(f"{key}{name}=1" for key in ("", "+", "model.", "+model.", "+trainer.", "+machine.", "+callbacks.")),
            *(f"{key}={name}" for key in ("optimizer", "+optimizer", "model._target_", "+loggers.new._target_")),
            *(f"+algorithms.{name}.smoothing=1", f"~{name}"),
        ]
    )
)
ILL_TYPED = st.one_of(
    pairs({key: [*TEXTS, "1.5"] for key in INTEGERS}),
    pairs(dict.fromkeys(NUMBERS, tuple(TEXTS))),
)
ANY_STAGE = st.tuples(st.sampled_from(STAGES), st.one_of(SYNTAX, UNKNOWN, ILL_TYPED, pairs(WRONG)))
DIFFUSION_STAGE = st.tuples(
    st.sampled_from(DIFFUSION),
    st.one_of(
        pairs(WRONG_OF_DIFFUSION),
        pairs({key: [*TEXTS, "1.5"] for key in WHOLE_OF_DIFFUSION}),
        pairs(dict.fromkeys(NUMBERS_OF_DIFFUSION, tuple(TEXTS))),
    ),
)


@pytest.mark.slow
@fuzz(200)
@given(st.one_of(ANY_STAGE, DIFFUSION_STAGE))
def test_what_is_wrong_is_one_sentence(capsys: pytest.CaptureFixture[str], case: tuple[str, str]):
    stage, override = case
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        build(stage, [override])
    error, hint = capsys.readouterr().err.splitlines()
    assert stop.value.code == 1
    assert error.startswith("Error: ") and len(error) > 20
    assert hint == "(set HYDRA_FULL_ERROR=1 to see where it was raised)"


RIGHT = {
    "seed": [0, 2**32 - 1],
    "exp_name": ["mine", "group/mine", "a-b_c.d"],
    "optimizer": ["adamw"],
    "optimizer.lr": ["1e-3", 0, 1],
    "optimizer.weight_decay": [0, 0.5],
    "schedule": ["constant", "cosine", "cosine_to_zero", "warmup"],
    "algorithms": ["standard", "ema", "ema_small"],
    "callbacks": ["monitors"],
    "train_loader.batch_size": [16, 512],
    "train_loader.shuffle": ["false"],
    "eval_loader": ["null"],
    "trainer.max_duration": ["2000ba", "3ep", 5],
    "trainer.save_interval": ["10ba", "1ep"],
    "trainer.device_train_microbatch_size": ["null", 1, 4],
    "+trainer.device_eval_batch_size": [],
    "machine": ["cpu", "gpu"],
    "trainer.compile_config": ["{}", "{backend: aot_eager}"],
    "init_from": ["trained_models/other"],
}
RIGHT_OF_DIFFUSION = {
    "resolution": [64, 128, "${divide:512,2}"],
    "model.train_mask_ratio": [0, 0.5, 0.9],
    "model.caption_drop": [0.05, 1],
    "model.noise_bands": ["[]", "[1]", "[0.1,0.2,5]"],
    "optimizer": ["muon"],
    "objective": ["edm", "edm_512", "edm_small"],
    "objective.P_mean": [-3, 0.25],
    "sampler": ["heun", "euler", "dpmpp_2m"],
    "sampler.steps": [1, 250],
    "backbone": ["nano", "tiny"],
    "backbone.depth": [1, 3],
    "backbone.position_scale": [0.5, 4],
    "+backbone.use_caption_mask": [],
    "autoencoder": ["sdxl", "ostris_16ch", "bundled"],
    "text_encoder": ["open_clip", "t5", "tiny"],
    "prompts": ["photos", "shapes", "emoji"],
    "prompts.captions": ["[a cat]", "[a cat, 'a dog: 2']"],
    "callbacks": ["standard"],
}
GROUPS = {key for key in {**RIGHT, **RIGHT_OF_DIFFUSION} if "." not in key}


def several(values: dict[str, list]) -> st.SearchStrategy[list[str]]:
    """Up to three overrides of different keys; an option of a group comes without leaves of that group."""
    unique = st.lists(pairs(values), min_size=1, max_size=3, unique_by=lambda text: text.split("=")[0].split(".")[0])
    return unique.map(lambda chosen: sorted(chosen, key=lambda text: "." in text))


@pytest.mark.slow
@fuzz(100)
@given(
    st.one_of(
        st.tuples(st.sampled_from(STAGES), several(RIGHT)),
        st.tuples(st.sampled_from(DIFFUSION), several({**RIGHT, **RIGHT_OF_DIFFUSION})),
    )
)
def test_what_is_right_is_built(case: tuple[str, list[str]]):
    build(*case)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("sampler.steps=many", "sampler.steps is 'many'; set it to a whole number"),
        ("seed=[1", "the override 'seed=[1' cannot be read"),
    ],
)
def test_train_py_says_the_same(override: str, sentence: str):
    for full in ("", "1"):
        arguments = ["--config-name", "quickstart_32_pretrain", override]
        result = run_script(ROOT_FOLDER / "train.py", *arguments, cwd=ROOT_FOLDER, HYDRA_FULL_ERROR=full)
        assert result.returncode == 1
        assert ("Traceback" in result.stderr) == bool(full)
        assert full or sentence in result.stderr
