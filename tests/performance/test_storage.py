"""The script that weighs storage formats compares each with the exact one."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "storage.py"


@pytest.fixture(scope="module")
def losses():
    """A row of each pair of formats."""
    spec = importlib.util.spec_from_file_location("storage", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows = {(row["latent_format"], row["caption_format"]): row for row in module.losses(4)}
    assert list(rows) == module.PAIRS
    return rows


def test_smaller_formats_change_the_loss_by_their_errors(losses):
    exact = losses["float16", "float16"]
    assert exact["loss_change"] == 0 and exact["loss"] > 0
    assert losses["float16", "float16_unpadded"]["loss"] == exact["loss"]  # the demo's network heeds the mask
    for (latent, caption), row in losses.items():
        assert abs(row["loss_change"]) < 0.05
        assert (row["latent_error"] > 0.005) == (latent != "float16")
        assert (row["caption_error"] > 0.001) == caption.startswith("int8")
    assert losses["uint8", "float16"]["latent_error"] > losses["int8", "float16"]["latent_error"]
    assert losses["int8", "int8_unpadded"]["bytes"] < losses["int8", "int8"]["bytes"] < exact["bytes"]


def test_token_ids_have_the_loss_of_exact_captions_by_construction(losses):
    ids, features = losses["int8", "token_ids"], losses["int8", "float16"]
    assert ids["bytes"] is None and ids["caption_error"] == 0
    assert ids["loss"] == pytest.approx(features["loss"], rel=1e-4)  # features that float16 rounds
