"""An ASCII terminal shows what it can."""

from __future__ import annotations

import io
import sys

import pytest

from micro_diffusion.cli.entry import main


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", rb"caf\xe9"), ("utf-8", "café".encode())])
def test_a_path_with_an_accent_is_named_on_every_terminal(monkeypatch, tmp_path, encoding, shown):
    monkeypatch.chdir(tmp_path)
    out, err = io.BytesIO(), io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding=encoding))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(err, encoding=encoding))
    assert main(["score", "caf\u00e9", "--out", "caf\u00e9.txt"]) == 2
    sys.stderr.flush()
    assert shown in err.getvalue()
