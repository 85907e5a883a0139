"""Lint, formatting, docstrings and types are part of the tests; pyproject.toml holds their settings."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

CHECKS = {
    "lint": ["ruff", "check", "--quiet", "--output-format=concise"],
    "format": ["ruff", "format", "--check", "--diff", "--quiet"],
    "types": ["pyright", "--pythonpath", sys.executable],
}


@pytest.mark.parametrize("check", CHECKS)
def test_style(check: str):
    result = subprocess.run([sys.executable, "-m", *CHECKS[check]], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, "\n" + result.stdout[-4000:] + result.stderr[-2000:]
