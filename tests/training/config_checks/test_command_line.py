"""A value that the configuration takes as text is text, whatever its characters; everything else is as it was."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException

from micro_diffusion.training.checkpoints.changes import changes
from micro_diffusion.training.config_checks.command_line import quote_texts, quoted_texts
from micro_diffusion.training.config_checks.errors import sentence
from micro_diffusion.training.config_checks.resolvers import register_resolvers

CONFIGS = Path(__file__).parents[3] / "configs"
TEXTS = [
    "2024_01_15",
    "1e5",
    "true",
    "~/bilder",
    "/daten/Bücher und Bäume",
    "a=b",
    "[draft] 1",
    "{x}",
    "it's",
    "back\\slash\\",
    "a,b",
    "100%",
    "été (2)",
]


def composed(name: str, *overrides: str):
    register_resolvers()
    read = quoted_texts(overrides, CONFIGS, name)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(name, overrides=read)


def test_texts_are_texts():
    parser = OverridesParser.create()
    for name, key in (("convert", "out"), ("quickstart_32_pretrain", "output_dir")):
        register_resolvers()
        read = quoted_texts([f"{key}={text}" for text in TEXTS], CONFIGS, name)
        assert [parser.parse_override(override).value() for override in read] == TEXTS
    made = composed("convert", "source=image_folder", "source.path=/ä/[1]", "out=2024_01_15", "part_size=1_024")
    assert (made.source.path, made.out, made.part_size) == ("/ä/[1]", "2024_01_15", 1024)


def test_what_is_no_text_stays_what_it_is():
    made = composed(
        "convert", "source=parquet", "source.path=x", "source.caption=[text,käse]", "+source.key=null", "out=o"
    )
    assert made.source.caption == ["text", "käse"]
    assert made.source.key is None
    unchanged = [
        "engine.count=2",
        "out='1'",
        "out=${source.path}/x",
        "source=shapes",
        "nothing.like.this=ä",
        "source=ä",
    ]
    assert quoted_texts(unchanged, CONFIGS, "convert") == unchanged


def test_the_command_line_of_a_script_is_quoted_in_place(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["scripts/convert.py", "out=/tmp/ä b", "source.count=3", "--cfg", "job"])
    quote_texts(CONFIGS, "convert")
    assert sys.argv[1:] == ["out='/tmp/ä b'", "source.count=3", "--cfg", "job"]


def test_where_it_cannot_be_the_error_shows_the_line_to_type():
    with initialize_config_dir(str(CONFIGS), version_base="1.3"), pytest.raises(OverrideParseException) as caught:
        compose("convert", overrides=["nothing=ä it's"])
    line = sentence(caught.value).partition("; type ")[2]
    assert shlex.split(line) == ["nothing='ä it\\'s'"]


def test_a_slash_at_the_end_of_a_folder_makes_no_other_configuration():
    first, second = (
        {"output_dir": folder, "exp_name": "run", "trainer": {"save_folder": f"{folder}/run/checkpoints"}}
        for folder in ("/x", "/x/")
    )
    assert [change.key for change in changes(first, second)] == ["output_dir"]
