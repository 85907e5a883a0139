import pytest
from omegaconf import OmegaConf

from micro_diffusion.training.config_checks.resolvers import divide
from micro_diffusion.training.config_checks.schema import validate

EDM = {"_target_": "micro_diffusion.diffusion.edm.EDM", "sigma_data": 0.9, "P_mean": 0.0, "P_std": 1.0}


def check(config):
    validate(OmegaConf.create(config))


def test_what_is_consumed_is_accepted():
    check({"seed": 0, "objective": EDM, "prompts": "${objective}", "callbacks": {"a": "${objective}", "b": None}})


def test_unknown_root_key_is_named_with_the_nearest():
    with pytest.raises(ValueError, match=r"nothing takes the key sede; did you mean seed\? allowed there: .*trainer"):
        check({"sede": 0})


def test_a_mapping_of_settings_has_all_of_them_and_no_others():
    problem = (
        r"machine lacks precision; set \+machine\.precision=VALUE; .*the key machine\.disk; .*machine\.device is 3; set"
    )
    with pytest.raises(ValueError, match=problem):
        check({"machine": {"device": 3, "disk": 1, "encoder_device": "cpu", "microbatch": 1}})


def test_unknown_argument_is_named_with_what_is_allowed():
    with pytest.raises(
        ValueError,
        match=r"objective\.P_maen; did you mean P_mean\? allowed in objective \(.*EDM\): P_mean, P_std, sigma_data",
    ):
        check({"objective": EDM | {"P_maen": 1.0}})


def test_nodes_in_lists_and_nodes_are_checked():
    with pytest.raises(ValueError, match=r"callbacks\.list\[1\]\.a\.wrong.*; .*prompts\.objective\.nope"):
        check(
            {
                "callbacks": {"list": [1, {"a": EDM | {"wrong": 1}}]},
                "prompts": {"objective": EDM | {"nope": 1}},
            }
        )


def test_missing_argument_is_named_unless_code_supplies_it():
    incomplete = {key: value for key, value in EDM.items() if key != "P_std"}
    with pytest.raises(ValueError, match=r"objective \(.*EDM\) lacks P_std; set \+objective\.P_std=VALUE"):
        check({"objective": incomplete})
    check({"objective": incomplete | {"_partial_": True}})


def test_value_that_must_be_set_is_named():
    with pytest.raises(ValueError, match="exp_name has no value; set exp_name=VALUE"):
        check({"exp_name": "???"})


def test_unknown_target_is_named():
    with pytest.raises(ValueError, match="_target_ micro_diffusion.diffusion.edm.EMD cannot be found"):
        check({"objective": {"_target_": "micro_diffusion.diffusion.edm.EMD"}})


def test_division_must_be_whole():
    assert divide(64, 4) == 16
    with pytest.raises(ValueError, match="66 is not divisible by 4; use 64 or 68"):
        divide(66, 4)
    with pytest.raises(ValueError, match="1 is not divisible by 8; use 8$"):
        divide(1, 8)
    with pytest.raises(ValueError, match="-1 is not divisible by 4; use 4$"):
        divide(-1, 4)
