"""The README.md of an exported model, with the fields that the Hugging Face hub reads."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import yaml

INSTALLED = {
    *("PIL", "annotated_types", "diffusers", "einops", "huggingface_hub", "numpy", "packaging", "safetensors"),
    *("torch", "tqdm", "transformers", "typing_extensions", "yaml"),
}
"""Imported packages that come with diffusers, transformers and torch, or with the folder."""
DISTRIBUTIONS = {"open_clip": "open_clip_torch", "sklearn": "scikit-learn"}
MODEL = ("backbone", "objective", "text_encoder", "autoencoder", "sampler", "image_conditioner", "thresholding")
TRAINING = ("seed", "resolution", "optimizer", "schedule", "algorithms", "lora")


def model_card(
    config: Mapping[str, Any],
    *,
    name: str,
    weights: str,
    parameters: int,
    scores: Any,
    notes: str | None,
    license: str | None,
    libraries: set[str],
) -> str:
    """Markdown: how to open the model, what it is, how it was trained, its scores and its license.

    Args:
        config: of the run.
        name: of the model.
        weights: which ones the folder holds, "ema" or "raw".
        parameters: numbers in them.
        scores: what `evaluate` wrote, or None.
        notes: the README.md of the run's folder, or None.
        license: of the weights, in the hub's words.
        libraries: top-level packages that the folder's code imports.
    """
    network = config["backbone"]["_target_"].rpartition(".")[2]
    text = config["text_encoder"]["_target_"].rpartition(".")[2]
    fields = {
        "license": license or "unknown",
        "library_name": "diffusers",
        "pipeline_tag": "unconditional-image-generation" if text == "NoEncoder" else "text-to-image",
        "tags": ["diffusion", "micro-diffusion"],
    }
    further = sorted(DISTRIBUTIONS.get(one, one) for one in libraries - INSTALLED - sys.stdlib_module_names)
    install = f"It needs diffusers, transformers and torch{''.join(f', {one}' for one in further)}."
    caption = config["prompts"]["captions"][0]
    sections = [
        f"---\n{yaml.safe_dump(fields, sort_keys=False)}---",
        f"# {name}",
        f"A {network} of {parameters:,} parameters ({weights} weights), trained with micro_diffusion.",
        f"## How to use it\n\n{install} Its source files lie in `diffusion/code`; read them before you trust them.",
        f"```python\n{_example(caption)}```",
        f"## The model\n\n```yaml\n{_yaml(config, MODEL)}```",
        f"## How it was trained\n\n{_data(config)}\n\n```yaml\n{_training(config)}```",
        f"## Scores\n\n{_scores(scores)}",
        f"## License\n\n{_license(license, config)}",
        *([f"## From the run's own README\n\n{_demoted(notes)}"] if notes else []),
    ]
    return "\n\n".join(sections) + "\n"


def _example(caption: str) -> str:
    return (
        "from diffusers import DiffusionPipeline\n\n"
        'FOLDER = "."  # this folder; for one of the hub, leave custom_pipeline out\n'
        "pipe = DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER, trust_remote_code=True)\n"
        f'pipe({caption!r}).images[0].save("image.png")\n'
    )


def _yaml(config: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    chosen = {key: _public(config[key]) for key in keys if config.get(key) is not None}
    return yaml.safe_dump(chosen, sort_keys=False, allow_unicode=True)


def _public(node: Any) -> Any:
    """Without the folders of the machine that trained: of an absolute path its last name stays."""
    if isinstance(node, Mapping):
        return {key: _public(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_public(value) for value in node]
    return PurePath(node).name if isinstance(node, str) and node.startswith(("/", "~")) else node


def _training(config: Mapping[str, Any]) -> str:
    chosen = {key: config[key] for key in TRAINING if config.get(key) is not None}
    chosen["max_duration"] = (config.get("trainer") or {}).get("max_duration")
    chosen["batch_size"] = (config.get("train_loader") or {}).get("batch_size")
    for key in ("train_mask_ratio", "caption_drop"):
        chosen[key] = (config.get("model") or {}).get(key)
    known = {key: value for key, value in chosen.items() if value is not None}
    return yaml.safe_dump(_public(known), sort_keys=False) if known else "# not part of this run's config\n"


def _data(config: Mapping[str, Any]) -> str:
    loader = config.get("train_loader") or {}
    places = [loader.get("path"), *[part.get("path") for part in loader.get("mixture") or [] if isinstance(part, dict)]]
    names = [str(_public(place)) for place in places if place]
    return f"Trained on {', '.join(names)}." if names else "Its config names no data; say here what it was trained on."


def _scores(scores: Any) -> str:
    rows = [f"| {name} | {value:g} |" for name, value in _numbers(scores)]
    if not rows:
        return "None measured; `micro-diffusion evaluate` does."
    return "\n".join(["| measure | value |", "|---|---|", *rows, "", "The whole report is metrics.json."])


def _demoted(text: str) -> str:
    """Markdown with its headings two levels lower, outside code."""
    outside, lines = True, []
    for line in text.strip().splitlines():
        outside ^= line.startswith("```")
        lines.append(f"##{line}" if outside and line.startswith("#") else line)
    return "\n".join(lines)


def _numbers(node: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Dotted names and scores, up to two names deep, without how long it took and with which settings."""
    if isinstance(node, Mapping) and name.count(".") < 1 and name not in ("seconds", "settings"):
        for key, value in node.items():
            yield from _numbers(value, f"{name}.{key}" if name else str(key))
    elif isinstance(node, float):
        yield name, node


def _license(license: str | None, config: Mapping[str, Any]) -> str:
    own = (
        f"The weights: {license}."
        if license
        else "The license of the weights is not stated; set the field `license` above before you publish them."
    )
    hub = [
        f"[{config[part][key]}](https://huggingface.co/{config[part][key].removeprefix('hf-hub:')})"
        for part in ("text_encoder", "autoencoder")
        for key in ("path", "model")
        if "/" in str(config[part].get(key) or "") and not str(config[part][key]).startswith(("/", "~", "."))
    ]
    theirs = f" {' and '.join(hub)}: see there." if hub else ""
    return f"{own}{theirs} The files in `diffusion/code`: micro_diffusion Apache-2.0, einops and annotated-types MIT."
