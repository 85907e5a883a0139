"""Networks as programs compute what the networks do, for any batch size."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from micro_diffusion.checkpoint import load_backbone
from micro_diffusion.export import program
from micro_diffusion.export.program import Network, example_inputs, export_network
from tests.export.networks import make
from tests.run_folder import make_run


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dit", "tld", "unet"])
def test_a_program_computes_what_the_network_does(tmp_path: Path, name: str):
    run = make(tmp_path / "run", name)
    made = export_network(run, tmp_path / "out", kind="torch_export")
    assert made.difference < 1e-5
    inputs = example_inputs(load_backbone(run), 5, 16)
    found = torch.export.load(made.path).module()(**inputs)
    expected = Network(load_backbone(run))(**inputs)
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.detach().abs().max()))
    described = json.loads((tmp_path / "out/network.json").read_text())
    assert described["inputs"]["x"] == ["float32", "B", 3, 16, 16]
    assert described["weights"] == "raw"


@pytest.mark.slow
@pytest.mark.skipif(not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))), reason="onnx is not installed")
def test_a_graph_computes_what_the_network_does(tmp_path: Path):
    assert export_network(make(tmp_path / "run", "dit"), tmp_path / "out", kind="onnx").difference < 1e-5


def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = make_run(tmp_path / "run")
    monkeypatch.setattr(program, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="run `pip install onnx onnxscript onnxruntime`"):
        export_network(run, tmp_path / "out", kind="onnx")
    monkeypatch.setattr(program.torch.export, "export", lambda *_, **__: 1 / 0)
    with pytest.raises(ValueError, match=r"SparseDiT cannot be written as torch_export \(division by zero\); use"):
        export_network(run, tmp_path / "out", kind="torch_export")
    assert not (tmp_path / "out").exists()
    (run / "cascade.yaml").write_text("stages: [a, b]\n")
    with pytest.raises(ValueError, match="is a cascade, for which the format torch_export has no place"):
        export_network(run, tmp_path / "out", kind="torch_export")
