"""Exported folders open with diffusers alone, and make the same images as their runs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from micro_diffusion import cli
from micro_diffusion.checkpoint import load_run, write_config
from micro_diffusion.export.diffusers_folder import export_diffusers
from micro_diffusion.saved_cascade import pipeline_of
from tests.export.networks import NETWORKS, make
from tests.run_folder import CONFIG, make_run

PROMPTS = ["a large red circle", "a small blue star on a black background"]


class Without:
    """Finds no module of these packages."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Opens an exported folder while this package cannot be imported."""
    from diffusers import DiffusionPipeline
    from diffusers.utils import dynamic_modules_utils

    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))

    def open_folder(folder: Path) -> Any:
        with monkeypatch.context() as only_here:
            hidden = ("micro_diffusion", "einops", "annotated_types")
            for name in [name for name in sys.modules if name.split(".")[0] in hidden]:
                only_here.delitem(sys.modules, name)
            only_here.setattr(sys, "meta_path", [Without(*hidden), *sys.meta_path])
            return DiffusionPipeline.from_pretrained(
                str(folder), custom_pipeline=str(folder), trust_remote_code=True, low_cpu_mem_usage=False
            )

    return open_folder


@pytest.mark.parametrize("name", NETWORKS)
def test_an_exported_run_makes_the_same_images(tmp_path: Path, opened, name: str):
    run = make(tmp_path / "run", name)
    file = export_diffusers(run, tmp_path / "out")
    assert file == tmp_path / "out/backbone/diffusion_pytorch_model.safetensors"
    pipe = opened(tmp_path / "out")
    made = pipe(PROMPTS, seed=5, guidance_scale=2.0, num_inference_steps=2, output_type="pt", batch_size=1).images
    expected = pipeline_of(load_run(run)).generate(PROMPTS, seed=5, guidance_scale=2.0, steps=2)
    assert type(pipe.backbone).__module__.startswith("micro_diffusion_")
    assert torch.allclose(made, expected / 255, atol=1e-4)
    assert made.std() > 0.1

    own = pipe(output_type="np", num_inference_steps=1).images  # its own prompts, seed and guidance
    assert own.shape == (2, 16, 16, 3)
    drawn = [pipe("a star", generator=torch.Generator().manual_seed(seed)).images[0] for seed in (1, 1, 2)]
    assert drawn[0].tobytes() == drawn[1].tobytes() != drawn[2].tobytes()
    away = pipe(PROMPTS, negative_prompt="a star", seed=5, guidance_scale=2.0, num_inference_steps=2, output_type="pt")
    assert not torch.equal(away.images, made)
    with pytest.raises(ValueError, match="both a seed and a generator"):
        pipe("a star", seed=1, generator=torch.Generator())
    with pytest.raises(ValueError, match="output_type is 'latent'"):
        pipe("a star", output_type="latent")
    with pytest.raises(ValueError, match="give both, or neither"):
        pipe("a star", height=16)
    with pytest.raises(NotImplementedError, match="copy its folder"):
        pipe.save_pretrained(tmp_path / "again")


def test_files_of_this_machine_are_copied_and_those_of_the_hub_named(tmp_path: Path):
    run = make_run(tmp_path / "run")
    bundled = {"_target_": "micro_diffusion.autoencoder.saved.load_autoencoder", "path": "bundled:autoencoder"}
    clip = {"_target_": "micro_diffusion.text.open_clip.OpenClipTextEncoder", "model": "hf-hub:apple/DFN5B"}
    write_config(run, {**CONFIG, "autoencoder": bundled, "text_encoder": clip})
    (run / "metrics.json").write_text('{"composition": {"two": 0.5}}')
    export_diffusers(run, tmp_path / "out", license="mit")
    autoencoder, text = (
        json.loads((tmp_path / "out" / part / "config.json").read_text())["part"]
        for part in ("autoencoder", "text_encoder")
    )
    assert autoencoder == {
        "_target_": "micro_diffusion.autoencoder.kl:KLAutoencoder.load",
        "path": {"_folder_": "path"},
    }
    assert (tmp_path / "out/autoencoder/path/model.safetensors").is_file()
    assert text["model"] == "hf-hub:apple/DFN5B"
    card = (tmp_path / "out/README.md").read_text()
    assert "open_clip_torch" in card and "license: mit" in card and "| composition.two | 0.5 |" in card


def test_what_cannot_be_exported(tmp_path: Path):
    run = make_run(tmp_path / "run")
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="is there already"):
        export_diffusers(run, tmp_path / "out")
    write_config(run, {**CONFIG, "sampler": {"_target_": "theirs.Sampler"}})
    with pytest.raises(ValueError, match=r"theirs\.Sampler is no class of this package"):
        export_diffusers(run, tmp_path / "new")
    (run / "cascade.yaml").write_text("stages: [a, b]\n")
    with pytest.raises(ValueError, match="is a cascade, for which the format diffusers has no place"):
        export_diffusers(run, tmp_path / "new")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run, out = str(make_run(tmp_path / "run")), str(tmp_path / "out")
    assert cli.main(["export", run, out, "--format", "diffusers", "--dtype", "float16"]) == 0
    assert out in capsys.readouterr().out
    assert cli.main(["export", run, run, out, "--format", "diffusers"]) == 2
    assert "2 runs are a cascade, for which the format diffusers has no place" in capsys.readouterr().err
    assert cli.main(["export", run, out, "--license", "mit"]) == 2
    assert "has no effect without --format diffusers" in capsys.readouterr().err
    assert cli.main(["export", run, out, "--format", "torch_export", "--dtype", "float16"]) == 2
    assert "--dtype has no effect on the format torch_export" in capsys.readouterr().err


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    """What `DiffusionPipeline.download` would fetch of a folder on the hub."""
    from diffusers.pipelines import pipeline_utils

    def fetched(folder: Path) -> set[str]:
        names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        asked: dict[str, Any] = {}

        def snapshot(*_: Any, **settings: Any) -> str:
            asked.update(settings)
            return str(folder)

        siblings = [type("Sibling", (), {"rfilename": name}) for name in names]
        monkeypatch.setattr(pipeline_utils, "model_info", lambda *_, **__: type("Info", (), {"siblings": siblings}))
        monkeypatch.setattr(pipeline_utils, "hf_hub_download", lambda *_, **__: str(folder.parent / "model_index.json"))
        monkeypatch.setattr(pipeline_utils, "snapshot_download", snapshot)
        index = json.loads((folder / "model_index.json").read_text())
        (folder.parent / "model_index.json").write_text(json.dumps(index))
        code = {}
        exec((folder / "pipeline.py").read_text(), code)
        monkeypatch.setattr(pipeline_utils, "_get_pipeline_class", lambda *_, **__: code["MicroDiffusionPipeline"])
        pipeline_utils.DiffusionPipeline.download("somebody/model", trust_remote_code=True)
        from fnmatch import fnmatch

        allowed = [name for name in names if any(fnmatch(name, one) for one in asked["allow_patterns"])]
        return {name for name in allowed if not any(fnmatch(name, one) for one in asked["ignore_patterns"])}

    return fetched


def test_the_hub_gives_every_file_that_opening_needs(tmp_path: Path, hub):
    run = make_run(tmp_path / "run")
    bundled = {"_target_": "micro_diffusion.autoencoder.saved.load_autoencoder", "path": "bundled:autoencoder"}
    write_config(run, {**CONFIG, "autoencoder": bundled})
    export_diffusers(run, tmp_path / "out")
    every = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert every - hub(tmp_path / "out") <= {"README.md", "metrics.json"}


ELSEWHERE = """
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        hidden = {"micro_diffusion", "einops", "annotated_types", "hydra", "omegaconf", "composer", "streaming"}
        if name.split(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Without())
from diffusers import DiffusionPipeline

folder = sys.argv[1]
pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
pipe("a large red circle on a white background", seed=3).images[0].save(sys.argv[2])
"""


@pytest.mark.slow
def test_the_demo_opens_in_an_environment_without_this_package(tmp_path: Path):
    prompt = "a large red circle on a white background"
    assert cli.main(["export", "demo", str(tmp_path / "demo"), "--format", "diffusers"]) == 0
    image = ["--seed", "3", "--precision", "fp32", "--device", "cpu", "--out", str(tmp_path / "here.png")]
    assert cli.main(["generate", "demo", prompt, *image]) == 0
    command = [
        sys.executable,
        "-I",
        "-W",
        "ignore",
        "-c",
        ELSEWHERE,
        str(tmp_path / "demo"),
        str(tmp_path / "there.png"),
    ]
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    here, there = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")) / 255 for name in ("here", "there"))
    assert np.abs(here - there).max() <= 1e-4
