"""Random overrides of every leaf of every stage: what is wrong is one sentence, what is right builds.

A stage is composed and built on the meta device, within the same handler of errors as train.py's. What a leaf
cannot be is known from `tests/config_leaves.py`.
"""

import functools
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from micro_diffusion.doctor.examination import all_stages
from micro_diffusion.doctor.stage import build_on_meta
from micro_diffusion.training.config_checks.errors import one_sentence_errors
from micro_diffusion.training.config_checks.resolvers import register_resolvers
from tests.config_leaves import LEAF_VALUES, MAPPING, Leaf, is_wrong, leaves_of, matches
from tests.config_overrides import (
    RIGHT,
    RIGHT_OF_DIFFUSION,
    RIGHT_OF_QUICKSTART,
    SYNTAX,
    UNKNOWN,
    WRONG,
    WRONG_OF_DIFFUSION,
    in_range,
    pairs,
    several,
)
from tests.forked_process import run_script

ROOT_FOLDER = Path(__file__).resolve().parents[1]
STAGES = all_stages(ROOT_FOLDER / "configs")
DIFFUSION = [stage for stage in STAGES if not re.search("autoencoder|vae|distill", stage)]
QUICKSTART = [stage for stage in STAGES if stage.startswith("quickstart")]
FULL = ["256_pretrain", "256_finetune", "512_pretrain", "512_finetune"]
SEED = int(os.environ.get("FUZZ_SEED", "18"))
"""Of what is set in the full stages; the other examples are always the same."""


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
        "+sampler.levels.rho=0",
        "seed=null",
    ]
    assert set(expected) <= wrong and len(wrong) > 800
    assert not wrong & {"objective.P_mean=-1", "optimizer.momentum=0", "init_from=null", "train_loader.mixture={}"}


ANY_STAGE = st.tuples(st.sampled_from(STAGES), st.one_of(SYNTAX, UNKNOWN, pairs(WRONG)))
DIFFUSION_STAGE = st.tuples(st.sampled_from(DIFFUSION), pairs(WRONG_OF_DIFFUSION))


@pytest.mark.slow
@fuzz(100)
@given(st.one_of(ANY_STAGE, DIFFUSION_STAGE))
def test_what_is_wrong_otherwise_is_one_sentence(capsys: pytest.CaptureFixture[str], case: tuple[str, str]):
    says_one_sentence(capsys, *case)


RIGHT_CASES = st.one_of(
    st.tuples(st.sampled_from(STAGES), several(pairs(RIGHT))),
    st.tuples(st.sampled_from(DIFFUSION), several(pairs({**RIGHT, **RIGHT_OF_DIFFUSION}))),
    st.tuples(st.sampled_from(QUICKSTART), several(pairs({**RIGHT, **RIGHT_OF_QUICKSTART}))),
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


def try_out(
    stage: str, name: str, examples: int, cases: st.SearchStrategy[Any], check: Callable[[Any], object]
) -> None:
    """Check so many cases, which are others for each stage."""

    @seed(f"{SEED}/{stage}/{name}")
    @fuzz(examples)
    @given(cases)
    def each(case: Any) -> None:
        check(case)

    each()


@pytest.mark.slow
@pytest.mark.parametrize("stage", FULL, ids=lambda stage: f"{stage}-FUZZ_SEED={SEED}")
def test_200_wrong_overrides_of_a_full_stage(stage: str, capsys: pytest.CaptureFixture[str]):
    leaves = st.sampled_from(wrong_overrides(stage))
    others = st.one_of(SYNTAX, UNKNOWN, pairs(WRONG), pairs(WRONG_OF_DIFFUSION))
    try_out(stage, "wrong leaves", 150, leaves, lambda case: check_wrong(capsys, *case))
    try_out(stage, "other wrong overrides", 50, others, lambda override: says_one_sentence(capsys, stage, override))


@pytest.mark.slow
@pytest.mark.parametrize("stage", FULL, ids=lambda stage: f"{stage}-FUZZ_SEED={SEED}")
def test_100_right_overrides_of_a_full_stage(stage: str):
    same = st.sampled_from(settable(stage)).map(lambda case: [case[0].override(case[1])])
    new = several(st.one_of(pairs({**RIGHT, **RIGHT_OF_DIFFUSION}), in_range()))
    try_out(stage, "leaves at what they are", 30, same, lambda overrides: build(stage, overrides))
    try_out(stage, "right overrides", 70, new, lambda overrides: build(stage, overrides))


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
