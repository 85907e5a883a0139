"""What storage formats of latents and captions cost: a table, and JSON with --json.

python scripts/storage.py --json storage.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor

from micro_diffusion.batch import TokenIds
from micro_diffusion.checkpoint import load_run
from micro_diffusion.data.format.row_format import RowFormat
from micro_diffusion.data.image.transforms import normalise
from micro_diffusion.data.prepare.description import bytes_per_row
from micro_diffusion.data.sources.shape_scenes import caption, render, scene
from micro_diffusion.files.run_folders import find_run
from micro_diffusion.performance import storage
from micro_diffusion.performance.disk import named_formats
from micro_diffusion.performance.training_step import training_flops
from micro_diffusion.text.encoder import TextEncoder
from micro_diffusion.training.config_checks.errors import one_sentence_errors
from micro_diffusion.training.config_checks.resolvers import register_resolvers

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
PAIRS = [
    ("float16", "float16"),
    ("int8", "float16"),
    ("uint8", "float16"),
    ("float16", "float16_unpadded"),
    ("float16", "int8"),
    ("int8", "float16_unpadded"),
    ("int8", "int8"),
    ("int8", "int8_unpadded"),
    ("uint8", "int8_unpadded"),
    ("int8", "token_ids"),
]

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> Row:
    """Measure, print, and write where --json says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--samples", type=int, default=512, help="images of shapes whose loss is compared")
    parser.add_argument("--layers", type=int, default=2, help="of the text tower of random weights, of 24")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args(arguments)
    register_resolvers()
    result = {"sizes": sizes(options.layers), "losses": losses(options.samples), "text_tower": text_tower()}
    for rows in result.values():
        print("\n".join(json.dumps(row) for row in rows), end="\n\n")
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def sizes(layers: int) -> list[Row]:
    """Bytes at the sizes of the recipe, and errors of captions, with a text tower of random weights."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    with TemporaryDirectory() as folder:
        encoder = storage.random_clip(Path(folder), layers=layers)
        for name, captions in caption_sets(64).items():
            ids = encoder.tokenize(captions)
            exact = encoder.encode_ids(ids).tokens
            latents = {r: torch.randn(len(captions), 4, r // 8, r // 8, generator=generator) for r in (256, 512)}
            for latent, caption_format in PAIRS:
                form = row_format(latent, caption_format, latents, encoder)
                one = replace(form, latent_sizes={256: form.latent_sizes[256]})
                columns = storage.columns_of(form, latents, encoder, captions)
                batch = storage.read_back(form, columns, 256)
                if "caption_ids" in batch:
                    read = TokenIds(batch["caption_ids"], batch["caption_mask"])
                    batch["caption_tokens"] = encoder.encode_ids(read).tokens
                rows.append(
                    {
                        "captions": name,
                        "mean_tokens": ids.mask.sum(dim=1).float().mean().item(),
                        "latent_format": latent,
                        "caption_format": caption_format,
                        "bytes_256_and_512": bytes_per_row(form.columns(), columns),
                        "bytes_256": bytes_per_row(one.columns(), columns),
                        "caption_error": storage.relative_error(batch["caption_tokens"][ids.mask], exact[ids.mask]),
                    }
                )
    return rows


def losses(count: int) -> list[Row]:
    """Change of the bundled demo model's evaluation loss, and errors, on shapes at its resolution."""
    run = load_run(find_run("demo"))
    resolution = run.backbone.input_size[0] * run.autoencoder.downsampling
    scenes = [scene(1, index, held_out="include") for index in range(count)]
    captions = [caption(item) for item in scenes]
    images = torch.stack([torch.tensor(render(item, resolution)).permute(2, 0, 1) for item in scenes])
    with torch.no_grad():
        latents = torch.cat([run.autoencoder.encode(part, sample=False) for part in normalise(images).split(64)])
    exact = run.text_encoder.encode(captions).tokens
    rows: list[Row] = []
    for latent, caption_format in PAIRS:
        as_ids = caption_format == "token_ids"
        form = row_format(latent, "float16" if as_ids else caption_format, {resolution: latents}, run.text_encoder)
        columns = storage.columns_of(form, {resolution: latents}, run.text_encoder, captions)
        batch = storage.read_back(form, columns, resolution)
        if as_ids:  # the demo's text encoder has none; they give its features as they are, see caption_error of `sizes`
            batch["caption_tokens"] = exact
        loss = storage.evaluation_loss(run, batch)
        first = rows[0]["loss"] if rows else loss
        rows.append(
            {
                "latent_format": latent,
                "caption_format": caption_format,
                "bytes": None if as_ids else bytes_per_row(form.columns(), columns),
                "latent_error": storage.relative_error(batch["latents"], latents),
                "caption_error": storage.relative_error(batch["caption_tokens"], exact),
                "loss": loss,
                "loss_change": loss / first - 1,
            }
        )
    return rows


def text_tower() -> list[Row]:
    """Share of ViT-H/14's text tower in the operations of a training step of XL/2, all counted."""
    tower = storage.tower_flops()
    rows = []
    for stage in ("256_pretrain", "256_finetune", "512_pretrain", "512_finetune"):
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            step = training_flops(compose(stage))
        rows.append({"stage": stage, "step_flops": step, "tower_flops": tower, "share": tower / (step + tower)})
    return rows


def caption_sets(count: int) -> dict[str, list[str]]:
    """Captions of shapes, names of emoji, and texts that fill all tokens."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        emoji = instantiate(compose("convert", overrides=["source=emoji"]).source)
    names = [entry.name for part in emoji.parts() for entry in part]
    return {
        "shapes": [caption(scene(1, index)) for index in range(count)],
        "emoji": names[:: len(names) // count][:count],
        "full": [" ".join(["circle"] * 75)] * count,
    }


def row_format(latent: str, caption_format: str, latents: Mapping[int, Tensor], encoder: TextEncoder) -> RowFormat:
    """The formats that the configs call so, for latents (N, C, h, w) by resolution and the encoder's captions."""
    latent_format, captions = named_formats(CONFIGS, latent, caption_format)
    return RowFormat(
        latents=latent_format,
        captions=captions,
        channels=next(iter(latents.values())).shape[1],
        latent_sizes={resolution: (values.shape[2], values.shape[3]) for resolution, values in latents.items()},
        caption_length=encoder.max_length,
        caption_dim=encoder.dim,
    )


if __name__ == "__main__":
    with one_sentence_errors():
        main()
