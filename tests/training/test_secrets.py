"""Secrets are refused by name, by shape and by what the environment holds, and never repeated."""

import pytest

from micro_diffusion.training.errors import sentence
from micro_diffusion.training.secrets import redacted, refuse_secrets

HUB = "hf_" + "Ab1" * 11
SECRETS = {
    "a token of the hub": {"autoencoder": {"path": HUB}},
    "an AWS key": {"loggers": {"x": {"id": "AKIA" + "ABCD1234" * 2}}},
    "a URL with a password": {"output_dir": "s3://someone:a-password@host/bucket"},
    "a setting of that name": {"loggers": {"wandb": {"init_kwargs": {"api_key": "0123456789abcdef"}}}},
    "a value of the environment": {"prompts": {"captions": ["a cat", "of-the-environment"]}},
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", "of-the-environment")
    monkeypatch.setenv("SHORT_TOKEN", "cat")


@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_is_refused_and_not_repeated(kind: str):
    with pytest.raises(ValueError, match="holds a secret, which would be saved with the run") as error:
        refuse_secrets(SECRETS[kind])
    leaf = SECRETS[kind]
    while isinstance(leaf, dict):
        key, leaf = next(iter(leaf.items()))
        assert key in str(error.value)
    assert (leaf if isinstance(leaf, str) else leaf[-1]) not in str(error.value)


def test_ordinary_values_pass():
    refuse_secrets(
        {
            "text_encoder": {"model": "hf-hub:apple/DFN5B-CLIP-ViT-H-14-378", "max_tokens": 77, "token": "<end>"},
            "output_dir": "s3://bucket/trained_models",
            "prompts": {"captions": ["a secret garden: red@blue", "a password on a note", "a cat"]},
            "loggers": {"wandb": {"entity": "somebody", "api_key": None}},
        }
    )


def test_errors_are_redacted():
    text = f"cannot reach https://me:a-password@host with {HUB} and of-the-environment"
    assert redacted(text) == "cannot reach https***host with *** and ***"
    assert sentence(OSError(f"bad {HUB}")) == "bad ***"
