"""Secrets are refused by name, by shape and by what the environment holds, and never repeated."""

import io
import logging
import re
import sys

import pytest

from micro_diffusion.training.config_checks.errors import sentence
from micro_diffusion.training.config_checks.secrets import redact_output, redacted, refuse_secrets

HUB = "hf_" + "Ab1" * 11
AWS = "AKIAIOSFODNN7EXAMPLE"
LONG = "0123456789abcdefghij0123456789ABCDEFGHIJ"
SHAPES = {
    "a token of the hub": HUB,
    "an AWS key": AWS,
    "a URL with a password": "s3://someone:a-password@host/bucket",
    "a password with slashes": "s3://minioadmin:pa/ss/word@host/x",
    "an AWS key and its secret": f"s3://{AWS}:wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY@bucket/x",
    "a secret that begins like a port": f"s3://{AWS}:12/K7MDENG/bPxRfiCYEXAMPLEKEY@bucket/x",
    "a password with an at sign": "https://someone:pass@word@host/x",
    "a URL whose user is a token": "https://mytokenonly1234567890@host/x",
    "a signature of Azure": f"https://a.blob.core.windows.net/c/x?sv=2020&sig={LONG}%3D",
    "a signature of Amazon": f"https://b.s3.amazonaws.com/x?X-Amz-Date=2026&X-Amz-Signature={LONG}",
    "a connection string": f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={LONG}==",
    "a token in a query": f"https://host/x?access_token={LONG}",
    "GitHub": f"github_pat_{LONG}",
    "GitLab": "glpat-abcdefghijklmnopqrst",
    "Google": f"AIzaSyA{LONG}",
    "Replicate": f"r8_{LONG}",
    "Weights & Biases": f"local-wandb_v1_{LONG}",
    "a bearer": f"bearer {LONG}",
    "a web token": f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.{LONG}",
    "a private key": "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----",
}
"""Of which no half may be left."""
PUBLIC = ("a.blob.core.windows.net", "b.s3.amazonaws.com", "DefaultEndpointsProtocol", "AccountName", "AccountKey")
PUBLIC += ("X-Amz-Date", "X-Amz-Signature", "access_token", "bucket")
NAMES = ["api_key", "x-api-key", "AWS.secret", "password", "passwd", "authorization", "credentials", "private_key"]
NAMES += ["account_key", "connection_string", "hub_token", "secret_access_key"]
SECRETS = {
    **{kind: {"loggers": {"x": {"path": value}}} for kind, value in SHAPES.items()},
    **{f"a setting {name}": {"loggers": {"wandb": {"init_kwargs": {name: "0123456789abcdef"}}}} for name in NAMES},
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


@pytest.mark.parametrize("key", [HUB, "of-the-environment"])
def test_keys_are_looked_at(key: str):
    with pytest.raises(ValueError, match=r"^loggers.x.headers.\*\*\* \(the key itself\) holds a secret"):
        refuse_secrets({"loggers": {"x": {"headers": {key: {"a": 1}}}}})


ORDINARY = {
    "text_encoder": {"model": "hf-hub:apple/DFN5B-CLIP-ViT-H-14-378", "max_tokens": 77, "token": "<end>"},
    "output_dir": "s3://bucket/trained_models",
    "prompts": {
        "captions": [
            "a secret garden: red@blue",
            "a password on a note",
            "a cat",
            "a card that says: write to someone@example.org",
            "the bearer of internationalisation",
            "a token=7",
        ]
    },
    "paths": [
        "git@host:group/project.git",
        "ssh://git@github.com/group/project",
        "https://somebody@host/x",
        "s3://bucket/folder@2026-11-21/a:b@c",
        "http://localhost:9000/bucket/a@b",
        "http://user.example.org/a:b@c",
        "hf://datasets/a/b@main/x.parquet",
        "abfss://images-of-2026-11@account.dfs.core.windows.net/x",
        "/data/latents@256/sig=1",
        "postgres://host:5432/x@y",
    ],
    "revision": "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c",
    "loggers": {"wandb": {"entity": "somebody", "api_key": None, "access_key_id": None}},
}


def test_ordinary_values_pass():
    refuse_secrets(ORDINARY)
    assert redacted(str(ORDINARY)) == str(ORDINARY)


@pytest.mark.parametrize("kind", SHAPES)
def test_nothing_of_a_secret_is_left(kind: str):
    """Neither in a sentence nor in a line of the log or its traceback, whoever writes it."""
    secret = SHAPES[kind]
    parts = [part for part in re.split(r"[:/@&?;=\s]", secret) if part not in PUBLIC and len(part) > 5]
    said = redacted(f"cannot reach {secret} at all")
    assert said.startswith("cannot reach ") and said.endswith(" at all")
    written = io.StringIO()
    root, handler = logging.getLogger(), logging.StreamHandler(written)
    root.addHandler(handler)
    try:
        redact_output()
        redact_output()
        try:
            raise ConnectionError(f"no answer of {secret}")
        except ConnectionError as error:
            logging.getLogger("a.library").warning("%s", error, exc_info=True)
    finally:
        root.removeHandler(handler)
    assert "no answer of" in written.getvalue() and "Traceback" in written.getvalue()
    assert [part for part in parts if part in said + written.getvalue()] == []


def test_an_error_that_ends_the_process_says_no_secret(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    redact_output()
    error = RuntimeError(f"unexpected {HUB}")
    sys.excepthook(RuntimeError, error, None)
    assert capsys.readouterr().err == "RuntimeError: unexpected ***\n"


def test_errors_are_redacted():
    text = f"cannot reach https://me:a-password@host with {HUB}, of-the-environment and x.password=from-elsewhere"
    assert redacted(text) == "cannot reach https***host with ***, *** and x.password=***"
    assert sentence(OSError(f"bad {HUB}")) == "bad ***"
