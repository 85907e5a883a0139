import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, InstantiationException
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError
from torch._utils import ExceptionWrapper

from micro_diffusion.training.config_checks.errors import one_sentence_errors, sentence
from micro_diffusion.training.config_checks.resolvers import register_resolvers


@pytest.fixture
def configs(tmp_path):
    (tmp_path / "sampler").mkdir()
    (tmp_path / "sampler" / "heun.yaml").write_text("_target_: micro_diffusion.sampling.heun.HeunSampler\nsteps: 5\n")
    (tmp_path / "root.yaml").write_text("defaults: [{sampler: heun}, _self_]\nseed: 0\nmodel: {ratio: 1}\nbands: [1]\n")
    return tmp_path


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("+seed=1", "the configuration has seed already; leave out the plus sign: seed=VALUE"),
        ("~sede", "the configuration has no sede, which ~sede is to remove; correct the key, or leave it out"),
        ("+bands.x=1", "bands is a list, which has no item x as in '+bands.x=1'; set bands to a list, such as []"),
        ("model=[1]", "the override 'model=[1]' gives no mapping; set the keys of model one by one"),
        ("sede=1", "nothing takes the key sede; did you mean seed? allowed there: accept_changes, "),
        ("model.ration=1", "nothing takes the key model.ration; did you mean ratio? allowed in model: ratio"),
        ("sampler.step=1", "nothing takes the key sampler.step; did you mean steps? allowed in sampler: steps"),
        ("sampler.churn=3", "leaves sampler.churn at its default; add it with a plus sign: +sampler.churn=VALUE"),
        ("sampler=3", "the override 'sampler=3' names no option of that group; set sampler to one of its options"),
        ("sampler=hoin", "Could not find 'sampler/hoin' Available options in 'sampler': heun"),
    ],
)
def test_an_override_of_nothing_names_what_there_is(configs, override, expected, capsys):
    with (
        pytest.raises(SystemExit, match="1"),
        one_sentence_errors(),
        initialize_config_dir(str(configs), version_base="1.3"),
    ):
        compose("root", overrides=[override])
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("Error: ") and expected in error
    assert "HYDRA_FULL_ERROR=1" in hint


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("drawing.sampler.steps=1", "cannot be set apart from it; set sampler.steps=VALUE"),
        ("drawing.sampler.churn=1", "drawing.sampler is the node sampler, and drawing.sampler.churn cannot be set"),
        ("model.ratio.x=1", "model.ratio is no mapping of its own, so model.ratio.x cannot be set; set model.ratio"),
    ],
)
def test_an_override_behind_a_reference_names_the_node(configs, override, expected):
    (configs / "drawing.yaml").write_text("defaults: [root, _self_]\ndrawing: {sampler: '${sampler}'}\n")
    with initialize_config_dir(str(configs), version_base="1.3"), pytest.raises(HydraException) as caught:
        compose("drawing", overrides=[override])
    assert expected in sentence(caught.value)


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda folder: folder.read_text(), "is a folder, but a file is wanted there; name a file"),
        (lambda folder: (folder / "none").read_text(), "none; correct the path, or make what it names"),
        (lambda folder: folder.mkdir(), "is there already; name another place, or remove it"),
    ],
)
def test_what_the_system_says_of_a_path_is_a_sentence(tmp_path, act, expected):
    with pytest.raises(OSError, match="Errno") as caught:
        act(tmp_path)
    assert expected in sentence(caught.value) and str(tmp_path) in sentence(caught.value)


def test_full_error_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match="bad"), one_sentence_errors():
        raise ValueError("bad")


def test_a_mistake_in_the_program_keeps_its_traceback():
    with pytest.raises(TypeError), one_sentence_errors():
        raise TypeError("a bug")


def test_the_cause_speaks_for_hydra():
    error = InstantiationException("Error in call to target")
    error.__cause__ = ValueError("dim=3 is odd;\n  choose 4")
    assert sentence(error) == "dim=3 is odd; choose 4"


def test_a_number_that_does_not_divide_is_one_sentence():
    register_resolvers()
    config = OmegaConf.create({"a": "${divide:33,4}"})
    with pytest.raises(Exception, match="divisible") as caught:
        _ = config.a
    assert sentence(caught.value) == "33 is not divisible by 4; use 32 or 36 (wanted by a, which is ${divide:33,4})"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            "${divide:abc,4}",
            "'abc' cannot be divided by 4; set both to whole numbers (wanted by a, which is ${divide:abc,4})",
        ),
        (
            "${oc.env:IT_IS_NOT}",
            "there is no environment variable IT_IS_NOT; set it (wanted by a, which is ${oc.env:IT_IS_NOT})",
        ),
        ("${divide:32,0}", "32 cannot be divided by 0; divide by 1 or more (wanted by a, which is ${divide:32,0})"),
    ],
)
def test_what_cannot_be_resolved_is_one_sentence(value, expected):
    register_resolvers()
    config = OmegaConf.create({"a": value})
    with pytest.raises(InterpolationResolutionError) as caught:
        _ = config.a
    assert sentence(caught.value) == expected


@pytest.mark.parametrize("cause", [ZeroDivisionError("division by zero"), TypeError("bad operand")])
def test_a_bare_error_of_a_constructor_names_its_node(cause):
    error = InstantiationException("Error in call to target\nfull_key: model.backbone")
    error.__cause__ = cause
    assert sentence(error) == f"model.backbone cannot be built ({type(cause).__name__}: {cause}); correct its settings"


def test_out_of_memory_says_what_to_set():
    assert "set trainer.device_train_microbatch_size" in sentence(torch.OutOfMemoryError("CUDA out of memory"))


def test_an_error_of_a_loader_worker_is_its_own_sentence():
    try:
        try:
            raise OSError("no such file")
        except OSError as error:
            raise ValueError("the shard a.mds cannot be had; make it again") from error
    except ValueError:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 1")
    with pytest.raises(ValueError, match="Original Traceback") as caught:
        wrapped.reraise()
    assert sentence(caught.value) == "the shard a.mds cannot be had; make it again"


def test_a_machine_without_memory_is_a_sentence():
    refused = RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)"
    )
    assert "does not hold another 4000000000000 bytes; use smaller batches" in sentence(refused)
    assert "does not hold what this needs (7 GiB); use smaller batches" in sentence(MemoryError("7 GiB"))
