"""Random overrides of every leaf of every stage: what is wrong is one sentence, what is right builds.

A stage is composed and built on the meta device, within the same handler of errors as train.py's. What a leaf
cannot be is known from `tests/config_leaves.py`.
"""

import functools
import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from micro_diffusion.doctor.examination import all_stages
from micro_diffusion.doctor.stage import build_on_meta
from micro_diffusion.training.errors import one_sentence_errors
from micro_diffusion.training.resolvers import register_resolvers
from micro_diffusion.training.schema import ROOT
from tests.config_leaves import LEAF_VALUES, MAPPING, Leaf, is_wrong, leaves_of, matches
from tests.forked_process import run_script

ROOT_FOLDER = Path(__file__).resolve().parents[1]
STAGES = all_stages(ROOT_FOLDER / "configs")
DIFFUSION = [stage for stage in STAGES if stage != "train_autoencoder"]
QUICKSTART = [stage for stage in STAGES if stage.startswith("quickstart")]


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


@functools.cache
def composed(stage: str) -> DictConfig:
    return compose(stage)


@functools.cache
def wrong_overrides(*stages: str) -> list[tuple[Leaf, str]]:
    """Everything that is known to be wrong: a leaf and the value it is set to."""
    values = [*LEAF_VALUES.items(), (MAPPING, MAPPING)]
    leaves = [leaf for stage in stages for leaf in leaves_of(stage, composed(stage))]
    return [(leaf, text) for leaf in leaves for value, text in values if is_wrong(leaf, value)]


REMEDY = re.compile(
    r"\b(set|choose|use|leave|drop|add|remove|make|give|correct|name|write|divide|lower|change|allowed)\b"
)
"""What to do; where no key is near, it is to use one of those that are allowed."""


def says_one_sentence(capsys: pytest.CaptureFixture[str], stage: str, override: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        build(stage, [override])
    error, hint = capsys.readouterr().err.splitlines()
    assert stop.value.code == 1
    assert error.startswith("Error: ") and len(error) > 20
    assert REMEDY.search(error) and "Could not append" not in error, f"{override}: {error}"
    assert hint == "(set HYDRA_FULL_ERROR=1 to see where it was raised)"
    return error


def names_key(error: str, key: str) -> bool:
    """Whether an error has the dotted key, or the key's name and the node it is in."""
    node, _, name = key.rpartition(".")
    return key in error or (name in error and re.search(rf"\(in (\w+\.)*{re.escape(node)}\)", error) is not None)


def names_value(error: str, text: str) -> bool:
    """Whether an error has the value, as it was written or as Python writes it."""
    return any(form in error for form in (text, {"null": "None", "true": "True"}.get(text, text)))


def check_wrong(capsys: pytest.CaptureFixture[str], leaf: Leaf, text: str) -> None:
    override = leaf.override(text)
    error = says_one_sentence(capsys, leaf.stage, override)
    assert names_key(error, leaf.key), f"{override}: {error}"
    if not leaf.is_mapping:  # of a whole node, the error names what the node then lacks
        assert names_value(error, text), f"{override}: {error}"


@pytest.mark.slow
@fuzz(200)
@given(st.data())
def test_a_wrong_value_of_any_leaf_is_one_sentence(capsys: pytest.CaptureFixture[str], data: st.DataObject):
    stage = data.draw(st.sampled_from(STAGES))
    check_wrong(capsys, *data.draw(st.sampled_from(wrong_overrides(stage))))


@fuzz(15)
@given(st.data())
def test_a_wrong_value_of_some_leaves_is_one_sentence(capsys: pytest.CaptureFixture[str], data: st.DataObject):
    check_wrong(capsys, *data.draw(st.sampled_from(wrong_overrides("quickstart_64_pretrain"))))


def test_the_leaves_are_all_of_them():
    """The arguments of optimizer, average, loaders and trainer, set or not, with their bounds."""
    wrong = {leaf.override(text) for leaf, text in wrong_overrides("quickstart_64_pretrain")}
    expected = ["optimizer.momentum=-1", "optimizer.steps=0", "algorithms.ema.start=zzz", "+backbone.norm_eps=inf"]
    expected += [
        "+trainer.profiler=true",
        "callbacks.time_left=zzz",
        "train_loader.workers=-1",
        "+sampler.rho=0",
        "seed=null",
    ]
    assert set(expected) <= wrong and len(wrong) > 800
    assert not wrong & {"objective.P_mean=-1", "optimizer.momentum=0", "init_from=null", "train_loader.mixture={}"}


NAMES = st.text(string.ascii_lowercase, min_size=4, max_size=9).filter(lambda name: name not in ROOT)
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
WRONG = {
    "train_loader.batch_size": ["'1'", "1.5", "{a: 1}"],
    "optimizer.lr": ["nan", "'1'", "[1]"],
    "trainer.max_duration": ["ten", "0ba", "-5ba", "[1]"],
    "trainer.eval_interval": ["often", 0],
    "trainer.load_path": ["elsewhere.pt"],
    "+trainer.console_log_interval": ["5ba"],
    "train_loader.cache_limit": ["10gb"],
    "trainer.compile_config": ["yes", 3],
    "trainer.device_train_microbatch_size": ["auto", 1.5, -4],
    "trainer.save_num_checkpoints_to_keep": [0, -2],
    "init_weights": ["raw", "best"],
    "accept_changes": ["[optimizer.lr]", "[nothing]", "[schedule.nonsense]"],
    "exp_name": ["../up", "/tmp/x", 2024, "'???'"],
    "machine": ["abacus", "null"],
    "callbacks": ["none", "3"],
    "trust_checkpoint": ["true", "maybe"],
    "output_dir": ["s3://me:my-password@host", "hf_aaaaaaaaaaaaaaaaaaaaaaaaaaaa"],
    "schedule.t_max": ["9ba"],
    "seed": [2**32, "${nowhere}", "${oc.env:IT_IS_NOT_SET}", "${divide:7,2}", "${divide:7,0}"],
    "optimizer.betas": ["[0.9,1]", "[-0.1,0.9]", "[0.9]"],
    "+schedule.t_warmup": ["-5ba", "''"],
    "callbacks.progress_lines.interval": ["-1ba", "''", "often"],
}
WRONG_OF_DIFFUSION = {
    "resolution": [33, 1001],
    "model.train_mask_ratio": [-0.1, 1, 1.5, "nan"],
    "model.caption_drop": [-0.5, 2],
    "model.noise_bands": ["[2,1]", "[0]", "[-1,1]", "3"],
    "model.cpu_precision": ["fp16", "8"],
    "model.backbone.depth": [3],
    "callbacks.image_logger.pipeline.sampler.steps": [3],
    "+objective.sigma_min": [90],
    "backbone.dim": [-32, 33, "1.5"],
    "backbone.head_dim": [7],
    "backbone.patch_size": [3],
    "prompts.captions": ["[]", "one", "[1,2]"],
    "prompts.guidance_scale": ["inf", "nan"],
    "text_encoder": ["bert"],
    "sampler": ["ddim", "null"],
    "backbone": ["huge"],
    "autoencoder": ["null"],
}
ANY_STAGE = st.tuples(st.sampled_from(STAGES), st.one_of(SYNTAX, UNKNOWN, pairs(WRONG)))
DIFFUSION_STAGE = st.tuples(st.sampled_from(DIFFUSION), pairs(WRONG_OF_DIFFUSION))


@pytest.mark.slow
@fuzz(100)
@given(st.one_of(ANY_STAGE, DIFFUSION_STAGE))
def test_what_is_wrong_otherwise_is_one_sentence(capsys: pytest.CaptureFixture[str], case: tuple[str, str]):
    says_one_sentence(capsys, *case)


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
    "accept_changes": ["[trainer.max_duration]"],
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
    "+backbone.expert_capacity": [0.5, 1, 3],
    "+backbone.norm_eps": [1e-5],
    "autoencoder": ["sdxl", "ostris_16ch", "bundled"],
    "text_encoder": ["open_clip", "t5", "tiny"],
    "prompts": ["photos", "shapes", "emoji"],
    "prompts.captions": ["[a cat]", "[a cat, 'a dog: 2']"],
    "callbacks": ["standard"],
}
RIGHT_OF_QUICKSTART = {
    "optimizer.momentum": [0, 0.5, 0.99],
    "optimizer.steps": [1, 5],
    "optimizer.matrix_lr_scale": [0.5, 20],
    "algorithms.ema.start": ["0ba", "1ba", "0.1dur"],
    "algorithms.ema.smoothing": [0.5, 0.9999],
    "trainer.eval_interval": ["1ba", 1, "0.5dur"],
    "train_loader.caption_probabilities": ["[1]", "null"],
    "train_loader.cache_limit": ["null"],
    "callbacks.nan_guard.max_skipped_batches": [2],
}


def several(values: dict[str, list]) -> st.SearchStrategy[list[str]]:
    """Up to three overrides of different keys; an option of a group comes without leaves of that group."""
    unique = st.lists(
        pairs(values), min_size=1, max_size=3, unique_by=lambda text: text.strip("+").split("=")[0].split(".")[0]
    )
    return unique.map(lambda chosen: sorted(chosen, key=lambda text: "." in text))


RIGHT_CASES = st.one_of(
    st.tuples(st.sampled_from(STAGES), several(RIGHT)),
    st.tuples(st.sampled_from(DIFFUSION), several({**RIGHT, **RIGHT_OF_DIFFUSION})),
    st.tuples(st.sampled_from(QUICKSTART), several({**RIGHT, **RIGHT_OF_QUICKSTART})),
)


@pytest.mark.slow
@fuzz(100)
@given(RIGHT_CASES)
def test_what_is_right_is_built(case: tuple[str, list[str]]):
    build(*case)


def literal(value: Any) -> str:
    """A value as it is written on the command line; a mapping as the empty one, whose merging changes nothing."""
    if OmegaConf.is_dict(value):
        return MAPPING
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(map(literal, value))}]"
    if isinstance(value, str):
        return "'" + value.replace("'", "\\'") + "'"
    return "null" if value is None else str(value).lower()


@functools.cache
def settable(stage: str) -> list[tuple[Leaf, str]]:
    """The leaves that a stage sets, with their values, but for the choices of groups and references to whole nodes."""
    config = composed(stage)
    leaves = [leaf for leaf in leaves_of(stage, config) if leaf.is_set and not is_group(leaf.key)]
    values = [(leaf, OmegaConf.select(config, leaf.key)) for leaf in leaves]
    return [(leaf, literal(value)) for leaf, value in values if leaf.is_mapping or not OmegaConf.is_dict(value)]


def is_group(key: str) -> bool:
    return (ROOT_FOLDER / "configs" / key).is_dir()


REFERENCES = ("callbacks.image_logger.*", "model.*", "trainer.parallelism_config")
"""Where whole nodes are referred to; their own keys are set where they stand."""


def test_only_choices_and_references_to_nodes_are_not_set_again():
    stage = "quickstart_64_pretrain"
    left = {leaf.key for leaf in leaves_of(stage, composed(stage)) if leaf.is_set}
    left -= {leaf.key for leaf, _ in settable(stage)}
    nodes = [key for key in left if not is_group(key)]
    assert len(nodes) <= 8 and all(matches(key, REFERENCES) for key in nodes)
    assert len(settable(stage)) > 80


@pytest.mark.slow
@fuzz(50)
@given(st.data())
def test_any_leaf_may_be_set_to_what_it_is(data: st.DataObject):
    leaf, value = data.draw(st.sampled_from(settable(data.draw(st.sampled_from(STAGES)))))
    build(leaf.stage, [leaf.override(value)])


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
