"""Low-rank adaptation (LoRA; Hu et al. 2021, arXiv 2106.09685) of any network, through the library peft.

    W·x becomes W·x + (alpha / rank)·B·A·x, with A (rank, in) random, B (out, rank) zero, and W as it was

A and B alone are trained, in fp32 whatever W is stored in, so that gradients, moments and averages are few.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from micro_diffusion.bounds import FractionBelow1, PositiveFloat, PositiveInt
from micro_diffusion.checkpoint import ADAPTER_FOLDER, Weights
from micro_diffusion.files.weight_file import write_tensors

NAME = "default"
"""Of the adapter within peft's layers."""

PREFIX = "base_model.model."
"""Before the names of tensors in peft's files."""

SHOWN = 8
"""Kinds of names in an error about a pattern that matches none of them."""


class Lora:
    """Puts low-rank adapters beside layers of a network, freezes the rest, and adds them to the weights at the end.

    A layer is an nn.Linear or an ungrouped nn.Conv2d, not a kind derived from them, whose forward may use its weight
    otherwise.

    Args:
        rank: of the product B·A, at least 1.
        alpha: factor of the product times the rank, above 0.
        dropout: probability of an entry of an adapter's input to be zero in training.
        targets: patterns (as of file names) of the names of layers that get an adapter, such as "*attention*".
        trained_whole: patterns of names of modules whose own weights are trained as well, such as "final".

    Raises:
        ImportError: without peft.
    """

    def __init__(
        self,
        *,
        rank: PositiveInt,
        alpha: PositiveFloat,
        dropout: FractionBelow1,
        targets: Sequence[str],
        trained_whole: Sequence[str],
    ) -> None:
        try:
            import peft  # noqa: F401 — its absence is better known before anything is built
        except ImportError as error:
            raise ImportError(
                "adapter=lora needs the library peft, which is not installed; pip install 'micro_diffusion[finetune]', "
                "or set adapter=none"
            ) from error
        if not targets:
            raise ValueError("adapter.targets is empty; name layers, such as '*attention*', or set adapter=none")
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.targets, self.trained_whole = list(targets), list(trained_whole)
        self._adapted: list[str] = []
        self._whole: list[str] = []

    def inject(self, network: nn.Module) -> None:
        """Put the adapters in, which leave what the network computes as it is, bit for bit, and freeze the rest.

        Raises:
            ValueError: for a pattern that matches no layer or module, or modules that are adapted and trained whole.
        """
        from peft import inject_adapter_in_model

        modules = dict(network.named_modules())
        kind, layers = type(network).__name__, {name for name, module in modules.items() if _is_plain(module)}
        self._adapted = _matching(self.targets, sorted(layers), f"adapter.targets names {{}}, but no layer of {kind}")
        self._whole = _matching(
            self.trained_whole,
            [name for name in modules if name],
            f"adapter.trained_whole names {{}}, but no part of {kind}",
        )
        for name in self._whole:
            if both := [layer for layer in self._adapted if f"{layer}.".startswith(f"{name}.")]:
                raise ValueError(
                    f"adapter.trained_whole takes in {name}, but adapter.targets {both[0]}; take one of them out"
                )
        inject_adapter_in_model(self._config(), network, NAME)
        network.requires_grad_(False)
        for layer in self._layers(network).values():
            for matrix in (layer.lora_A[NAME], layer.lora_B[NAME]):
                matrix.float().requires_grad_(True)
        for name in self._whole:
            modules[name].requires_grad_(True)

    @contextmanager
    def removed(self, network: nn.Module) -> Iterator[None]:
        """The network as it was before `inject` for a while, to read weights into it."""
        layers = self._layers(network)
        try:
            for name, layer in layers.items():
                _replace(network, name, layer.get_base_layer())
            yield
        finally:
            for name, layer in layers.items():
                _replace(network, name, layer)

    def merged(self, network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state of the adapted network -> that of one without adapters which computes the same.

        The sums are in fp32: in bf16 small adapters would be rounded away.
        """
        whole = {key: value for key, value in state.items() if not _of_adapter(key)}
        plain = {key.replace(".base_layer.", "."): value for key, value in whole.items()}
        for name, layer in self._layers(network).items():
            first, second = (state[f"{name}.lora_{side}.{NAME}.weight"].float() for side in "AB")
            product = torch.tensordot(
                second.flatten(1), first, dims=1
            )  # (out, rank), (rank, in, ...) -> (out, in, ...)
            plain[f"{name}.weight"] = plain[f"{name}.weight"].float() + layer.scaling[NAME] * product
        return plain

    def write(self, run: Path, weights: Weights, state: Mapping[str, Tensor]) -> Path:
        """Write the adapter alone, as peft's own programs read it, into a run's folder; returns where.

        Modules that are trained whole are peft's `modules_to_save`.
        """
        folder = run / ADAPTER_FOLDER / weights
        # peft looks for every module whose name ends like one of `modules_to_save`
        kept = [key for key in state if _of_adapter(key) or any(f"{name}." in key for name in self._whole)]
        named = {f"{PREFIX}{key.replace(f'.{NAME}.', '.')}": state[key] for key in kept}
        write_tensors(folder / "adapter_model.safetensors", named, weights=weights)
        self._config(modules_to_save=self._whole or None).save_pretrained(str(folder))
        return folder

    def _config(self, **further: Any) -> Any:
        from peft import LoraConfig

        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # pyright: ignore[reportArgumentType]  # a float does as well
            lora_dropout=self.dropout,
            target_modules="|".join(map(re.escape, self._adapted)),  # of a list peft takes what ends alike, too
            **further,
        )

    def _layers(self, network: nn.Module) -> dict[str, Any]:
        """The adapted layers by the names that they had before."""
        return {name: network.get_submodule(name) for name in self._adapted}


def _is_plain(module: nn.Module) -> bool:
    """Whether a layer's result is its weight times its input, so that an adapter can be added to the weight."""
    return type(module) is nn.Linear or (type(module) is nn.Conv2d and module.groups == 1)


def _of_adapter(key: str) -> bool:
    return key.endswith((f".lora_A.{NAME}.weight", f".lora_B.{NAME}.weight"))


def _matching(patterns: Sequence[str], names: Sequence[str], error: str) -> list[str]:
    """The names that any of the patterns matches.

    Raises:
        ValueError: `error`, with the pattern in it, for one that matches none.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            kinds = list(dict.fromkeys(re.sub(r"\d+", "*", name) for name in names))
            listed = ", ".join(kinds[:SHOWN]) + (f" and {len(kinds) - SHOWN} more" if len(kinds) > SHOWN else "")
            raise ValueError(f"{error.format(pattern)} is called so; choose of {listed}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
