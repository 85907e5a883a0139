"""The data of most tests of this folder."""

import pytest

from tests.data.stream.test_loader import make_latents


@pytest.fixture
def folder(tmp_path):
    return make_latents(tmp_path / "latents")
