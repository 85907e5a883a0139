"""Cascades of run folders: opened from several runs or from one folder that names them, and saved as such a folder.

trained_models/<name>/cascade.yaml   stages: [base, sr_256, sr_1024], folders of runs relative to this file
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from micro_diffusion.checkpoint import Run, Weights, build, choose_weights, export_run, load_run, read_config
from micro_diffusion.files.run_folders import CONFIG_FILE
from micro_diffusion.files.whole_file import whole_file
from micro_diffusion.sampling.cascade import Cascade, Stage
from micro_diffusion.sampling.guidance import WeakerRun
from micro_diffusion.sampling.pipeline import Pipeline

CASCADE_FILE = "cascade.yaml"


def pipeline_of(run: Run, weaker: WeakerRun | None = None) -> Pipeline:
    """The parts of a run, joined, with a run that guidance leads away from."""
    return Pipeline(
        text_encoder=run.text_encoder,
        autoencoder=run.autoencoder,
        backbone=run.backbone,
        objective=run.objective,
        sampler=run.sampler,
        image_conditioner=run.image_conditioner,
        weaker=weaker,
        thresholding=run.thresholding,
    )


def open_cascade(
    folders: Sequence[str | Path], *, weights: Weights | None = None, device: str | torch.device = "cpu"
) -> Cascade:
    """The cascade of these runs, in their order, or of one folder that names them; no network is loaded yet.

    Args:
        folders: of runs, or one folder with a `cascade.yaml`.
        weights: which weights of each run; None for averaged ones where a run has them.
        device: where networks work.

    Raises:
        FileNotFoundError: when a run is not there, or not trained.
        ValueError: when stages do not follow each other.
    """
    paths = [Path(folder) for folder in folders]
    if len(paths) == 1 and (paths[0] / CASCADE_FILE).is_file():
        paths = stage_folders(paths[0])
    return Cascade([_stage(path, weights, device) for path in paths])


def stage_folders(folder: str | Path) -> list[Path]:
    """The runs that a folder's `cascade.yaml` names.

    Raises:
        FileNotFoundError: when one of them has moved.
        ValueError: when the file is no list of stages.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    path = Path(folder) / CASCADE_FILE
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as YAML ({' '.join(str(error).split())}); save it again") from error
    names = content.get("stages") if isinstance(content, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path} has no list of stages; save the cascade again")
    stages = [Path(folder) / name for name in names]
    for name, stage in zip(names, stages, strict=True):
        if not (stage / CONFIG_FILE).is_file():
            raise FileNotFoundError(
                f"{path} names the stage {name}, but {stage} is no run folder; move it back, or save the cascade again"
            )
    return stages


def save_cascade(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    weights: Weights | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """Copy what generating needs of these runs into one folder that can be passed around; returns its cascade.yaml.

    Raises:
        FileExistsError: when `out` is a cascade already, or holds a run of a stage's name.
        ValueError: when stages do not follow each other, or two have one name.
    """
    from omegaconf import OmegaConf

    paths, out = [Path(folder) for folder in folders], Path(out)
    open_cascade(paths, weights=weights)
    if (out / CASCADE_FILE).exists():
        raise FileExistsError(f"{out} is a cascade already; choose a new folder, or remove it first")
    names = [path.resolve().name for path in paths]
    if len(set(names)) != len(names):
        raise ValueError(f"two stages have one name in {', '.join(names)}; rename a folder")
    for name, path in zip(names, paths, strict=True):
        export_run(path, out / name, weights=weights, dtype=dtype)
    with whole_file(out / CASCADE_FILE) as unfinished:
        OmegaConf.save(OmegaConf.create({"stages": names}), unfinished)
    return out / CASCADE_FILE


def _stage(folder: Path, weights: Weights | None, device: str | torch.device) -> Stage:
    """A run as a stage, from its config alone."""
    choose_weights(folder, weights)  # or it is not trained
    config = read_config(folder)
    stated = config.get("autoencoder", {}).get("downsampling")
    downsampling = stated or build(config, "autoencoder", folder).downsampling
    size = config["backbone"]["input_size"]
    height, width = (side * downsampling for side in ([size] * 2 if isinstance(size, int) else size))
    given = None
    if config.get("image_conditioner") is not None:
        given = build(config, "image_conditioner", folder).given_pixels((height, width))
    return Stage(
        name=folder.resolve().name,
        resolution=(height, width),
        given=given,
        load=partial(_load, folder, weights, device),
        guidance_scale=build(config, "prompts", folder).guidance_scale,
    )


def _load(folder: Path, weights: Weights | None, device: str | torch.device) -> Pipeline:
    return pipeline_of(load_run(folder, weights=weights, device=device))
