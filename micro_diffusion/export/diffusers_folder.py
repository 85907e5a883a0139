"""A run as a folder that diffusers opens where this package is not installed.

FOLDER/README.md               model card
FOLDER/model_index.json        names the pipeline's class and that of every part
FOLDER/pipeline.py             the pipeline
FOLDER/backbone/               config.json, part.py and the network's weights
FOLDER/autoencoder/            config.json, part.py and the weights that are files of this machine
FOLDER/text_encoder/           likewise
FOLDER/diffusion/              config.json and part.py of objective, sampler and settings, and code/, the source files

Which folder holds what follows from what `DiffusionPipeline.from_pretrained` fetches from the hub: of a folder with
weights those, config.json and the one file that model_index.json names, of another everything.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from micro_diffusion.autoencoder import saved
from micro_diffusion.autoencoder.gaussian import read_config as read_autoencoder
from micro_diffusion.bundled import resolve_path
from micro_diffusion.checkpoint import OPTIONAL_PARTS, WEIGHT_FILES, Weights, choose_weights, read_config
from micro_diffusion.export import generation, opened
from micro_diffusion.export.model_card import model_card
from micro_diffusion.export.source_tree import COPIED, libraries, source_file, source_tree, tree_name
from micro_diffusion.files.weight_file import read_tensors, write_tensors
from micro_diffusion.files.whole_file import whole_folder
from micro_diffusion.saved_cascade import CASCADE_FILE

WEIGHTS = "diffusion_pytorch_model.safetensors"
"""The name by which diffusers knows that a folder holds weights."""
PARTS = ("backbone", "autoencoder", "text_encoder", "diffusion")
GENERATION = ("objective", "sampler", "prompts", *OPTIONAL_PARTS)
PATHS = ("path", "model", "weights")
"""Arguments of encoders and autoencoders that name files, or a repository of the hub."""


def export_diffusers(
    folder: str | Path,
    out: str | Path,
    *,
    weights: Weights | None = None,
    dtype: torch.dtype | None = None,
    license: str | None = None,
) -> Path:
    """Write a run as a folder for `DiffusionPipeline.from_pretrained`; returns the file of the network's weights.

    Encoders and autoencoders of the hub stay there, and are fetched from it by whoever opens the folder; those that are
    files of this machine are copied.

    Args:
        folder: of the run.
        out: a new folder.
        weights: "ema", "raw", or None for the average where the run has one.
        dtype: what to round the network's weights to in the file; None keeps them.
        license: of the weights, in the hub's words, such as "apache-2.0".

    Raises:
        FileExistsError: when `out` is there.
        FileNotFoundError: when the run has no weights.
        ValueError: for a cascade, and for a part that is no class of this package.
    """
    folder, out = Path(folder), Path(out)
    if (folder / CASCADE_FILE).exists():
        raise ValueError(f"{folder} is a cascade, for which the format diffusers has no place; export each of its runs")
    config, chosen = read_config(folder), choose_weights(folder, weights)
    state = read_tensors(folder / WEIGHT_FILES[chosen])
    with whole_folder(out) as unfinished:
        nodes = _described(config, unfinished)
        modules = sorted({module for node in nodes.values() for module in _modules(node)})
        tree = source_tree(modules)
        _write_code(unfinished, nodes, tree)
        stored = {key: value.to(dtype if value.is_floating_point() else None) for key, value in state.items()}
        write_tensors(unfinished / "backbone" / WEIGHTS, stored, weights=chosen)
        scores, notes = folder / "metrics.json", folder / "README.md"
        if scores.is_file():
            shutil.copy(scores, unfinished)
        card = model_card(
            config,
            name=out.name,
            weights=chosen,
            parameters=sum(value.numel() for value in state.values()),
            scores=json.loads(scores.read_text()) if scores.is_file() else None,
            notes=notes.read_text(encoding="utf-8") if notes.is_file() else None,
            license=license,
            libraries=libraries(tree),
        )
        (unfinished / "README.md").write_text(card, encoding="utf-8")
    return out / "backbone" / WEIGHTS


def _described(config: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Part -> how to build it, as part.py reads it; files that a part needs are copied beside it."""
    nodes = {part: _located(config[part]) for part in ("backbone", "autoencoder", "text_encoder")}
    nodes["diffusion"] = {
        "_target_": f"{generation.__name__}:{generation.Generation.__name__}",
        **{part: _located(config[part]) for part in GENERATION if config.get(part) is not None},
    }
    for part in ("autoencoder", "text_encoder"):
        for argument in PATHS:
            value = nodes[part].get(argument)
            if not isinstance(value, str) or not (source := resolve_path(value)).exists():
                continue
            if nodes[part]["_target_"] == f"{saved.__name__}:load_autoencoder":
                module, _, name = saved.NETWORKS[read_autoencoder(source)[0]].partition(".")
                nodes[part]["_target_"] = f"{saved.__package__}.{module}:{name}.load"
            place = out / part / argument
            if source.is_dir():
                shutil.copytree(source, place)
                nodes[part][argument] = {"_folder_": argument}
            else:
                place.mkdir(parents=True)
                shutil.copy(source, place)
                nodes[part][argument] = {"_folder_": f"{argument}/{source.name}"}
    return nodes


def _located(node: Any) -> Any:
    """A node of a config with "module:name" for "module.name" in its targets, and in those of the nodes within."""
    if isinstance(node, list):
        return [_located(value) for value in node]
    if not isinstance(node, Mapping):
        return node
    return {key: _split(value) if key == "_target_" else _located(value) for key, value in node.items()}


def _split(target: str) -> str:
    names = target.split(".")
    for count in range(len(names) - 1, 0, -1):
        module = ".".join(names[:count])
        if names[0] in COPIED:
            try:
                source_file(module)
            except ModuleNotFoundError:
                continue
            return f"{module}:{'.'.join(names[count:])}"
    raise ValueError(
        f"{target} is no class of this package, so an exported folder cannot hold its code; export the run as a run "
        "folder, without --format"
    )


def _modules(node: Any) -> set[str]:
    """The modules of all targets within a node."""
    if isinstance(node, list):
        return {module for value in node for module in _modules(value)}
    if not isinstance(node, Mapping):
        return set()
    own = {node["_target_"].partition(":")[0]} if "_target_" in node else set()
    return own.union(*(_modules(value) for value in node.values()))


def _write_code(out: Path, nodes: Mapping[str, Any], tree: Mapping[str, str]) -> None:
    """The source files, what calls them, and what diffusers reads first."""
    files = Path(opened.__file__).parent
    for path, text in tree.items():
        place = out / "diffusion" / "code" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    for part in PARTS:
        (out / part).mkdir(exist_ok=True)
        shutil.copy(files / "part.py", out / part)
        described = {"code": tree_name(tree), "part": nodes[part]}
        (out / part / "config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    shutil.copy(files / "pipeline.py", out)
    index = {
        "_class_name": ["pipeline", "MicroDiffusionPipeline"],
        "_diffusers_version": metadata.version("diffusers"),
        **{part: ["part", "Part"] for part in PARTS},
    }
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
