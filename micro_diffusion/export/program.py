"""A run's network alone, as a program of torch.export or an ONNX graph.

Legend: B batch, C latent channels, C' channels of a conditioning image, h w latent cells, L tokens, D their width.
"""

from __future__ import annotations

import json
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from micro_diffusion.backbone.class_token import noise_shape
from micro_diffusion.checkpoint import Weights, build, choose_weights, load_backbone, read_config
from micro_diffusion.condition import Condition
from micro_diffusion.files.whole_file import whole_folder
from micro_diffusion.saved_cascade import CASCADE_FILE

FILES = {"torch_export": "network.pt2", "onnx": "network.onnx"}
TOLERANCE = 1e-3
"""Of the largest value that the network gives; more is another network."""


class Exported(NamedTuple):
    """The file, and the largest difference of its results from the network's, as a share of the largest result."""

    path: Path
    difference: float


class Network(nn.Module):
    """A backbone with plain tensors in and out, as both formats want it."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(
        self,
        x: Tensor,
        level: Tensor,
        tokens: Tensor,
        mask: Tensor | None = None,
        image: Tensor | None = None,
        image_level: Tensor | None = None,
    ) -> Tensor:
        """x (B, C, h, w), level (B,), tokens (B, L, D), mask (B, L), image (B, C', h, w), its level (B,) -> x's shape.

        x is scaled, and the level told, as the run's objective does it.
        """
        return self.backbone(x, level, Condition(tokens, mask, image, image_level)).value


def export_network(
    folder: str | Path, out: str | Path, *, kind: Literal["torch_export", "onnx"], weights: Weights | None = None
) -> Exported:
    """Write the network of a run, in fp32, for any batch size at its resolution, and measure the difference.

    Args:
        folder: of the run.
        out: a new folder, for the file and `network.json`, which lists the inputs.
        kind: the format.
        weights: "ema", "raw", or None for the average where the run has one.

    Raises:
        FileExistsError: when `out` is there.
        ModuleNotFoundError: when the library of the format is not installed.
        ValueError: for a cascade, a network that the format cannot express, and one that computes something else then.
    """
    folder, out = Path(folder), Path(out)
    if (folder / CASCADE_FILE).exists():
        raise ValueError(f"{folder} is a cascade, for which the format {kind} has no place; export each of its runs")
    if kind == "onnx":
        _check_onnx()
    chosen = choose_weights(folder, weights)
    network = Network(load_backbone(folder, weights=chosen)).eval().requires_grad_(False)
    tokens = build(read_config(folder), "text_encoder", folder).max_length
    inputs = example_inputs(network.backbone, 2, tokens)
    with whole_folder(out) as unfinished:
        path, given = unfinished / FILES[kind], example_inputs(network.backbone, 3, tokens)
        write = _saved_program if kind == "torch_export" else _saved_graph
        try:
            program = torch.export.export(network, (), inputs, dynamic_shapes=_any_batch(inputs), strict=False)
            found = write(program, path, given)
        except Exception as error:  # of any type: whatever of the network the format has no words for
            name = type(network.backbone).__name__
            raise ValueError(f"{name} cannot be written as {kind} ({_reason(error)}); use another --format") from error
        with torch.no_grad():
            expected = network(**given)
        difference = float((found - expected).abs().max() / expected.abs().max())
        if not difference < TOLERANCE:
            raise ValueError(f"the {kind} of {folder} differs from its network by {difference:.1e}; use another format")
        shapes = {
            name: [str(value.dtype).removeprefix("torch."), "B", *value.shape[1:]] for name, value in given.items()
        }
        described = {"inputs": shapes, "weights": chosen, "difference": difference}
        (unfinished / "network.json").write_text(json.dumps(described, indent=2) + "\n")
    return Exported(out / FILES[kind], difference)


def example_inputs(backbone: Any, batch: int, tokens: int) -> dict[str, Tensor]:
    """Random inputs of a network, by name; those that it does not take are left out."""
    generator = torch.Generator().manual_seed(batch)
    size = tuple(backbone.input_size)
    inputs = {
        "x": torch.randn(batch, *noise_shape(backbone, size), generator=generator),
        "level": torch.rand(batch, generator=generator),
        "tokens": torch.randn(batch, tokens, backbone.caption_dim, generator=generator),
    }
    if backbone.use_caption_mask:
        inputs["mask"] = torch.arange(tokens) < torch.arange(1, batch + 1)[:, None].clamp(max=tokens)
    if backbone.image_channels:
        inputs["image"] = torch.randn(batch, backbone.image_channels, *size, generator=generator)
    if backbone.takes_image_level:
        inputs["image_level"] = torch.rand(batch, generator=generator)
    return inputs


def _reason(error: BaseException) -> str:
    """What stood at the beginning of an error, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:200]


def _any_batch(inputs: dict[str, Tensor]) -> dict[str, Any]:
    batch = torch.export.Dim("batch", min=1, max=4096)
    return {name: {0: batch} for name in inputs}


def _saved_program(program: Any, path: Path, inputs: dict[str, Tensor]) -> Tensor:
    """Write a program, read it again and run it."""
    torch.export.save(program, path)
    return torch.export.load(path).module()(**inputs)


def _saved_graph(program: Any, path: Path, inputs: dict[str, Tensor]) -> Tensor:
    """Write a graph, read it again and run it."""
    session_of = import_module("onnxruntime").InferenceSession  # no requirement; `_check_onnx` asks for it
    torch.onnx.export(program, (), path, kwargs=inputs, dynamo=True, external_data=False, verbose=False)
    session = session_of(path, providers=["CPUExecutionProvider"])
    wanted = {one.name for one in session.get_inputs()}
    (found,) = session.run(None, {name: value.numpy() for name, value in inputs.items() if name in wanted})
    return torch.from_numpy(found)


def _check_onnx() -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"the format onnx needs {', '.join(missing)}; run `pip install {' '.join(missing)}`", name=missing[0]
        )
