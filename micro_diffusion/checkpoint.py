"""Run folder <-> model: a folder with `config.yaml` and `*.safetensors` is all that the rest of the package needs.

trained_models/<name>/config.yaml         the fully resolved configuration
trained_models/<name>/model.safetensors   the backbone's raw weights, plain keys
trained_models/<name>/ema.safetensors     their exponential moving average, when training kept one
trained_models/<name>/adapter/            what fine-tuning by LoRA added to the weights, which are with it: raw/, ema/
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from micro_diffusion.backbone.widening import widened
from micro_diffusion.files.old_names import renamed
from micro_diffusion.files.run_folders import CONFIG_FILE, run_folders
from micro_diffusion.files.weight_file import read_tensors, write_tensors
from micro_diffusion.files.whole_file import whole_file

WEIGHT_FILES = {"ema": "ema.safetensors", "raw": "model.safetensors"}
ADAPTER_FOLDER = "adapter"
PARTS = ("backbone", "objective", "text_encoder", "autoencoder", "sampler", "prompts")
OPTIONAL_PARTS = ("image_conditioner", "thresholding")
Weights = Literal["ema", "raw"]
_WRAPPER_PREFIXES = re.compile(r"(^|\.)(_orig_mod|module)(?=\.)")


def plain_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state without the `_orig_mod.` of torch.compile and the `module.` of DDP and averaging, wherever they stand.

    Raises:
        ValueError: when two keys become one.
    """
    plain = {_WRAPPER_PREFIXES.sub("", key).lstrip("."): value for key, value in state.items()}
    if len(plain) != len(state):
        raise ValueError(
            "the state dict holds one tensor with and without a wrapper's prefix; save one model at a time"
        )
    return plain


def save_weights(
    folder: str | Path, state: Mapping[str, Tensor], weights: Weights, *, dtype: torch.dtype | None = None
) -> Path:
    """Write a backbone's state dict with plain keys, atomically; returns the file.

    Args:
        folder: the run folder, made when it does not exist.
        state: parameters and persistent buffers on any device.
        weights: "ema" or "raw", which decides the file's name.
        dtype: what to round floating-point numbers to; None keeps them.
    """
    path = Path(folder) / WEIGHT_FILES[weights]
    tensors = {
        key: value.detach().to(dtype if value.is_floating_point() else None) for key, value in plain_keys(state).items()
    }
    write_tensors(path, tensors, weights=weights)
    return path


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy `state` into `module`, cast to the module's dtypes.

    Raises:
        ValueError: that lists every missing, unexpected and misshapen key at once; the module is then unchanged.
    """
    check_fit(module, {key: tuple(value.shape) for key, value in state.items()}, source)
    module.load_state_dict(dict(state))


def check_fit(module: nn.Module, shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Compare the names and shapes of a state with those of a module.

    Raises:
        ValueError: that lists every missing, unexpected and misshapen key at once.
    """
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    differences = key_differences(expected, shapes)
    if differences:
        raise ValueError(f"{source} does not fit the network: {differences}; use the configuration it was trained with")


def key_differences(expected: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]) -> str:
    """A complete list of keys that are missing, unexpected or misshapen, as part of a sentence; empty when all fit."""
    missing = [key for key in expected if key not in given]
    unexpected = [key for key in given if key not in expected]
    misshapen = [
        f"{key} {list(given[key])} instead of {list(shape)}"
        for key, shape in expected.items()
        if key in given and tuple(given[key]) != tuple(shape)
    ]
    found = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    return "; ".join(f"{len(keys)} {kind} ({', '.join(keys)})" for kind, keys in found.items() if keys)


def choose_weights(folder: str | Path, weights: Weights | None = None) -> Weights:
    """Which weights of a run to use: those asked for, else the average when the run has one, else the raw ones.

    Raises:
        FileNotFoundError: when the run does not have them; says what it has.
    """
    folder = _existing(Path(folder))
    present = [kind for kind, file in WEIGHT_FILES.items() if (folder / file).is_file()]
    if not present:
        raise FileNotFoundError(
            f"{folder} holds no weights ({' or '.join(WEIGHT_FILES.values())}); its training has not finished, so "
            "start it again to resume it"
        )
    if weights is None:
        return "ema" if "ema" in present else "raw"
    if weights not in present:
        raise FileNotFoundError(
            f"{folder} has no {weights} weights ({WEIGHT_FILES[weights]}); use {present[0]} instead"
        )
    return weights


def initialise_from(backbone: nn.Module, folder: str | Path, weights: Weights | None = None) -> Weights:
    """Start a stage from the result of another: copy a run's weights into `backbone`; returns which were taken.

    Positions are no part of the weights; the backbone has built them for its own resolution. Where the backbone takes a
    conditioning image and the run did not, the new weights leave its prediction as it was.
    """
    path = Path(folder) / WEIGHT_FILES[chosen := choose_weights(folder, weights)]
    load_strictly(backbone, widened(read_tensors(path), backbone), source=str(path))
    return chosen


@dataclass(frozen=True)
class Run:
    """A finished run, ready to generate: the parts that its config describes, with the backbone's weights loaded.

    weights: which weights the backbone holds, "ema" or "raw". config: the resolved configuration as plain containers.
    """

    folder: Path
    config: dict[str, Any]
    weights: Weights
    backbone: Any
    objective: Any
    text_encoder: Any
    autoencoder: Any
    sampler: Any
    prompts: Any
    image_conditioner: Any = None
    thresholding: Any = None


def load_run(folder: str | Path, *, weights: Weights | None = None, device: str | torch.device = "cpu") -> Run:
    """Build everything that a run's `config.yaml` describes and load the backbone's weights, in `eval` mode.

    The config's `_target_`s are called: load run folders only from people you would run code of.

    Raises:
        FileNotFoundError: when the folder, its config or its weights are missing.
        ValueError: when the config lacks a part, or the weights do not fit it.
    """
    folder = Path(folder)
    config = read_config(folder)
    chosen = choose_weights(folder, weights)
    parts = {part: build(config, part, folder, device) for part in PARTS}
    parts |= {part: build(config, part, folder, device) for part in OPTIONAL_PARTS if config.get(part) is not None}
    path = folder / WEIGHT_FILES[chosen]
    load_strictly(parts["backbone"], read_tensors(path), source=str(path))
    for module in parts.values():
        if isinstance(module, nn.Module):
            module.to(device).eval()  # they keep requires_grad: of other weights autocast makes a copy at every call
    return Run(folder=folder, config=config, weights=chosen, **parts)


def load_backbone(
    folder: str | Path, *, weights: Weights | None = None, device: str | torch.device = "cpu"
) -> nn.Module:
    """The backbone of a run alone, with its weights, in `eval` mode."""
    backbone = build(read_config(folder), "backbone", Path(folder))
    path = Path(folder) / WEIGHT_FILES[choose_weights(folder, weights)]
    load_strictly(backbone, read_tensors(path), source=str(path))
    return backbone.to(device).eval()


def export_run(
    folder: str | Path, out: str | Path, *, weights: Weights | None = None, dtype: torch.dtype | None = None
) -> Path:
    """Copy what generating needs of a run into a new folder: one set of weights and the nodes of its config.

    Raises:
        FileExistsError: when `out` is a run folder already.
    """
    folder, out = Path(folder), Path(out)
    if (out / CONFIG_FILE).exists():
        raise FileExistsError(f"{out} is a run folder already; choose a new one, or remove it first")
    config, chosen = read_config(folder), choose_weights(folder, weights)
    path = save_weights(out, read_tensors(folder / WEIGHT_FILES[chosen]), chosen, dtype=dtype)
    write_config(out, {part: config[part] for part in (*PARTS, *OPTIONAL_PARTS) if part in config})
    return path


def read_config(folder: str | Path) -> dict[str, Any]:
    """A run's `config.yaml` as plain containers, interpolations resolved."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    path = _existing(Path(folder)) / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no {CONFIG_FILE}, so it is no run folder; give the folder of a training"
        )
    try:
        config = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as YAML ({reason}); copy it again, or train again") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is no mapping of parts; write it with training or an import")
    return renamed(config)


def write_config(folder: str | Path, config: Mapping[str, Any]) -> Path:
    """Write a resolved configuration as a run's `config.yaml`."""
    from omegaconf import OmegaConf

    path = Path(folder) / CONFIG_FILE
    with whole_file(path) as unfinished:
        OmegaConf.save(OmegaConf.create(dict(config)), unfinished, resolve=True)
    return path


def build(config: Mapping[str, Any], part: str, folder: Path, device: str | torch.device = "cpu") -> Any:
    """The object that the node `part` of a run's config describes, on `device` when its constructor takes one.

    Raises:
        ValueError: when there is no such node, or its target cannot be called with its arguments.
        OSError: when the object's own files are missing.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import get_object, instantiate

    node = config.get(part)
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ValueError(f"{folder / CONFIG_FILE} describes no {part}; add a `{part}:` with a `_target_`")
    try:
        takes_device = "device" in inspect.signature(get_object(node["_target_"])).parameters
        return instantiate(dict(node), _convert_="all", **({"device": str(device)} if takes_device else {}))
    except (InstantiationException, ImportError, TypeError, AttributeError) as error:
        if isinstance(error.__cause__, ValueError | OSError):
            raise error.__cause__ from None
        reason = " ".join(str(error).split())
        raise ValueError(f"{part} of {folder / CONFIG_FILE} cannot be built: {reason}; correct that node") from error


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        names = run_folders(folder.parent)
        there = f"the ones in {folder.parent} are: {', '.join(names)}" if names else f"there is none in {folder.parent}"
        raise FileNotFoundError(f"there is no run folder {folder}; {there}")
    return folder


def parameter_count(module: nn.Module) -> int:
    """Numbers in all parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())
