"""Source files as a tree of their own: complete, relative, and under another name for other contents."""

import ast
import sys

import pytest

from micro_diffusion.export import source_tree as module
from micro_diffusion.export.source_tree import libraries, source_tree, tree_name

DIT = "micro_diffusion.backbone.dit"


def test_a_tree_holds_what_its_modules_import_and_no_import_of_the_package():
    tree = source_tree([DIT, "micro_diffusion.backbone.pixel_attention"])
    assert {"micro_diffusion/backbone/dit.py", "micro_diffusion/condition.py", "einops/einops.py"} <= tree.keys()
    assert {"einops/LICENSE", "annotated_types/LICENSE", "__init__.py"} <= tree.keys()
    assert not any("training" in path or "hydra" in text for path, text in tree.items())
    for path, text in tree.items():
        for node in ast.walk(ast.parse(text if path.endswith(".py") else "")):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                assert (node.module or "").split(".")[0] not in module.COPIED, path
    assert libraries(tree) <= {"torch", *sys.stdlib_module_names}


def test_the_package_itself_stays_empty_in_a_tree():
    assert source_tree([DIT])["micro_diffusion/__init__.py"] == ""


def test_a_tree_is_named_by_its_contents():
    tree = {"a.py": "x = 1\n"}
    assert tree_name(tree) == tree_name(dict(tree)) != tree_name({"a.py": "x = 2\n"})
    assert tree_name(tree).isidentifier()


def test_an_import_that_cannot_be_relative_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path):
    (tmp_path / "odd.py").write_text("import micro_diffusion.batch\n")
    monkeypatch.setattr(module, "source_file", lambda name: tmp_path / "odd.py")
    with pytest.raises(ValueError, match="odd.py:1 cannot be made relative"):
        module._relative("import micro_diffusion.batch\n", "micro_diffusion.odd")
