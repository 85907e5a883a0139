"""Loads the part of the model in the folder beside it; diffusers calls it as model_index.json says.

config.json here says which class the part is and how to call it. The class is in diffusion/code, whose files are those
of the package that trained the model.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file

WEIGHTS = "diffusion_pytorch_model.safetensors"


class Part(torch.nn.Module):
    """A name for diffusers to call; what is loaded is of the part's own class."""

    @classmethod
    def from_pretrained(cls, folder: str, torch_dtype: torch.dtype | None = None, **_: Any) -> Any:
        """The part in `folder`, in eval mode; a network's weights are cast to `torch_dtype`."""
        place = Path(folder)
        described = json.loads((place / "config.json").read_text(encoding="utf-8"))
        code = _code(place.parent / "diffusion" / "code", described["code"])
        part = _built(described["part"], code, place)
        if (place / WEIGHTS).is_file():
            part.load_state_dict(load_file(place / WEIGHTS))
        return part.to(torch_dtype).eval() if isinstance(part, torch.nn.Module) else part


def _code(folder: Path, name: str) -> ModuleType:
    """The package in `folder`, under a name that follows from its contents, so that two models do not mix."""
    if name not in sys.modules:
        spec = spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])
        if spec is None or spec.loader is None:
            raise ImportError(f"{folder} cannot be imported; download the model again")
        sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def _built(node: Any, code: ModuleType, folder: Path) -> Any:
    """What a description stands for: a call of "module:name", a place in `folder`, or a plain value."""
    if isinstance(node, list):
        return [_built(value, code, folder) for value in node]
    if not isinstance(node, dict):
        return node
    if "_folder_" in node:
        return str(folder / node["_folder_"])
    arguments = {key: _built(value, code, folder) for key, value in node.items() if key != "_target_"}
    if "_target_" not in node:
        return arguments
    module, _, name = node["_target_"].partition(":")
    found: Any = import_module(f"{code.__name__}.{module}")
    for attribute in name.split("."):
        found = getattr(found, attribute)
    return found(**arguments)
