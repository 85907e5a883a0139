"""All checks in order, from the machine to one step of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from micro_diffusion.checkpoint import parameter_count
from micro_diffusion.doctor.data import LOADERS, check_data, check_encoders, parts
from micro_diffusion.doctor.disk import Outlay, check_disk, outlays_of
from micro_diffusion.doctor.encoders import ENCODERS, check_encoder, check_perceptual
from micro_diffusion.doctor.finding import Doubt, Finding, find
from micro_diffusion.doctor.machine import check_device, check_libraries, check_python, check_shared_memory
from micro_diffusion.doctor.run import check_first_weights, check_remote_folder, check_run_folder, run_folder
from micro_diffusion.doctor.stage import build_on_meta, summary
from micro_diffusion.doctor.step import check_step
from micro_diffusion.performance.plan import stage_configs
from micro_diffusion.training.config_checks.class_names import with_class_names
from micro_diffusion.training.config_checks.errors import sentence


def examine(
    configs: Path,
    stages: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    deep: bool = False,
    download: bool = False,
    data_later: bool = False,
) -> Iterator[Finding]:
    """Findings as they come up.

    Args:
        configs: folder of the stages.
        stages: that shall run, whose data and encoders must be there; none for all stages, of which only the
            configurations must be right.
        overrides: of every stage.
        deep: compare every byte of the data with its hash.
        download: fetch encoders that are not here.
        data_later: the data will be made before the stages run.
    """
    yield find("python", check_python)
    yield find("libraries", check_libraries)
    seen: set[tuple[str, str]] = set()
    made: set[Path] = set()
    outlays: list[Outlay] = []
    for stage in stages or all_stages(configs):
        for finding in examine_stage(
            partial(stage_configs, configs, [stage], overrides),
            stage,
            needed=bool(stages),
            deep=deep,
            download=download,
            data_later=data_later,
            made=made,
            outlays=outlays,
        ):
            said = (finding.subject.removeprefix(f"{stage} "), finding.text)
            if said not in seen or said[0] == "configuration":  # what several stages share is said once
                yield finding
            seen.add(said)
    if outlays:
        yield find("disk", partial(check_disk, outlays), needed=bool(stages))


def examine_stage(
    composed: Callable[[], dict[str, DictConfig]],
    stage: str,
    *,
    needed: bool,
    deep: bool,
    download: bool,
    data_later: bool,
    made: set[Path],
    outlays: list[Outlay],
) -> Iterator[Finding]:
    """The findings of one stage; those after a configuration that cannot be built would say nothing new.

    made: the folders of the runs before this one, to which its own is added. outlays: likewise what they write.
    """
    built: dict[str, Any] = {}

    def configuration() -> str:
        config = with_class_names(composed()[stage], data_later=data_later or not needed)
        try:
            built["model"] = build_on_meta(config)
        except Exception as error:
            if needed or not isinstance(error.__cause__, ImportError):
                raise
            raise Doubt(sentence(error)) from error  # of a library that is installed for such stages alone
        content: Any = OmegaConf.to_container(config, resolve=True)
        built["folders"] = {loader: [part.folder for part in parts(content, loader)] for loader in LOADERS}
        built["config"] = config
        return summary(built["model"])

    yield find(f"{stage} configuration", configuration)
    if "config" not in built:
        return
    config: DictConfig = built["config"]
    content: Any = OmegaConf.to_container(config, resolve=True)
    folders: dict[str, list[Path]] = built["folders"]
    yield find(f"{stage} run folder", partial(check_run_folder, content, made), needed=needed)
    yield find(f"{stage} first weights", partial(check_first_weights, content, made), needed=needed)
    if "://" in (content["trainer"]["save_folder"] or ""):
        yield find(f"{stage} remote folder", partial(check_remote_folder, content), needed=needed)
    made.add(run_folder(content).resolve())
    device = find(f"{stage} device", partial(check_device, content["machine"]["device"]), needed=needed)
    yield device
    network = built["model"].network
    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    outlays += outlays_of(config, parameter_count(network), trained)
    yield find(f"{stage} shared memory", partial(check_shared_memory, content, folders["train_loader"]), needed=needed)
    here = []
    for kind in ENCODERS if "text_encoder" in content else ():
        draws = any("pipeline" in (node or {}) for node in content["callbacks"].values())
        check = partial(check_encoder, content[kind], download=download, made=made)
        here.append(find(f"{stage} {kind}", check, needed=needed and draws))
    yield from here
    if getattr(built["model"], "perceptual", None) is not None:
        yield find(f"{stage} perceptual", partial(check_perceptual, built["model"]), needed=needed)
    whole = []
    for loader in LOADERS:
        expected = not data_later or all(folder.exists() for folder in folders[loader])
        check = partial(check_data, content, loader, deep=deep)
        whole.append(find(f"{stage} {loader}", check, needed=needed and expected))
    yield from whole
    if here and all(finding.state == "good" for finding in here):
        yield find(f"{stage} encoders", partial(check_encoders, content))
    if needed and whole[0].state != "bad" and all(map(Path.is_dir, folders["train_loader"])) and device.state != "bad":
        kind = torch.device("cuda" if content["machine"]["device"] == "gpu" else "cpu")
        yield find(f"{stage} step", partial(check_step, config, kind))
    elif needed:
        yield find(f"{stage} step", _not_tried)


def all_stages(configs: Path) -> list[str]:
    """The names of all training configurations in a folder.

    Raises:
        FileNotFoundError: when there is none.
    """
    names = sorted(path.stem for path in configs.glob("*.yaml") if "exp_name:" in path.read_text(encoding="utf-8"))
    if not names:
        raise FileNotFoundError(f"there are no stages in {configs}; give --configs the folder of the stages")
    return names


def _not_tried() -> str:
    raise Doubt("not tried, since it needs the data and the device; make them ready and ask again")
