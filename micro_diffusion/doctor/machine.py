"""Checks of the machine: libraries, devices and shared memory."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from micro_diffusion.data.stream.shared_memory import SEGMENTS, stale_segments
from micro_diffusion.doctor.finding import Doubt

DISTRIBUTION = "micro_diffusion"
GPU_DRIVER = Path("/proc/driver/nvidia/version")
PREFETCHED = 2
"""Batches that each worker of a loader holds ready (PyTorch's default)."""


def check_python() -> str:
    """The interpreter is one that the package is made for."""
    wanted = _metadata()["Requires-Python"] or ""
    if platform.python_version() not in SpecifierSet(wanted):
        raise ValueError(f"Python is {platform.python_version()}, but {wanted} is needed; make another environment")
    return platform.python_version()


def check_libraries() -> str:
    """Every required library is there in a version within the bounds of setup.py."""
    required = [Requirement(text) for text in _metadata().get_all("Requires-Dist") or []]
    wanted = [requirement for requirement in required if requirement.marker is None or requirement.marker.evaluate()]
    wrong = [problem for requirement in wanted if (problem := _problem(requirement))]
    if wrong:
        raise ValueError(f"{'; '.join(wrong)}; run: pip install -e . (or -r requirements.lock)")
    return f"{len(wanted)} within their bounds, torch {torch.__version__}"


def check_device(device: str) -> str:
    """The device of `machine.device` can be used. device: Composer's name, "gpu" or "cpu"."""
    if device == "cpu":
        if GPU_DRIVER.exists() and not torch.cuda.is_available():
            raise Doubt(
                "training will run on the CPU although this machine has an NVIDIA driver; install a build of torch "
                "for CUDA and a driver that is new enough for it"
            )
        return f"CPU, {torch.get_num_threads()} threads"
    if not torch.cuda.is_available():
        raise ValueError("machine.device is gpu, but torch finds no GPU; set machine=cpu, or install a CUDA driver")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    for i, name in enumerate(names):
        free, total = torch.cuda.mem_get_info(i)
        if free < 0.8 * total:
            raise Doubt(
                f"other processes hold {(total - free) / 1e9:.1f} of {total / 1e9:.1f} GB of GPU {i} ({name}); end "
                "them, or choose other GPUs with CUDA_VISIBLE_DEVICES"
            )
    return ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names))


def check_shared_memory(config: dict[str, Any], folders: Sequence[Path]) -> str:
    """The batches that the loader's workers hold ready fit into shared memory, and no killed process has left any."""
    if not SEGMENTS.is_dir():
        raise Doubt(f"there is no {SEGMENTS}; set train_loader.workers=0, since workers hand over batches there")
    usage, need = shutil.disk_usage(SEGMENTS), _prefetched_bytes(config)
    if usage.free < need:
        raise OSError(
            f"{SEGMENTS} has {usage.free / 1e9:.2f} GB free, but the workers of train_loader hold {need / 1e9:.2f} GB "
            "of batches ready; enlarge it (docker run --shm-size), or lower train_loader.workers"
        )
    stale = [segment for folder in folders for segment in stale_segments(folder)]
    if stale:
        raise Doubt(
            f"a killed process has left {len(stale)} segments of these data in {SEGMENTS}; the next training "
            "removes them"
        )
    return f"{usage.free / 1e9:.1f} GB free in {SEGMENTS}"


def _prefetched_bytes(config: dict[str, Any]) -> int:
    """Of fp32 latents and captions; images for an autoencoder are small beside them."""
    loader, backbone = config["train_loader"], config.get("backbone")
    if backbone is None or not loader.get("workers"):
        return 0
    side, text = config["resolution"] // config["autoencoder"]["downsampling"], config["text_encoder"]
    numbers = backbone["in_channels"] * side**2 + text.get("max_length", 0) * text["dim"]
    return 4 * numbers * loader["batch_size"] * PREFETCHED * loader["workers"]


def _metadata() -> Any:
    try:
        return metadata.metadata(DISTRIBUTION)
    except metadata.PackageNotFoundError as error:
        raise ValueError(f"{DISTRIBUTION} is not installed in this environment; run: pip install -e .") from error


def _problem(requirement: Requirement) -> str | None:
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is missing"
    if requirement.specifier.contains(version, prereleases=True):
        return None
    return f"{requirement.name} is {version} instead of {requirement.specifier}"
