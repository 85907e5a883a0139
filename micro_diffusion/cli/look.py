"""`micro-diffusion look`: somebody's folder of images, and how to train on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from micro_diffusion.cli.arguments import FILE

if TYPE_CHECKING:
    from micro_diffusion.data.prepare.look import Folder

NONE = (
    "none, so images are generated without a prompt; for prompts, put a .txt file beside each image, name the files "
    "for what they show, or sort them into folders"
)
PRESETS = ("laptop", "12gb", "24gb", "80gb")
AUTOENCODER_STEPS = 4000
"""Of 16 images: what the small autoencoder of docs/emoji.md was trained with."""
FINETUNE_EPOCHS = 50
"""How often a stage without masks is to see each image."""
FINETUNE_STEPS = (300, 3000)
"""The fewest, without which nothing is learned, and the most, of configs/mine_*_finetune.yaml."""
BATCH_SIZE = 32
"""Of those stages."""


@click.command(short_help="a folder of images, and how to train on it")
@click.argument("folder", metavar="FOLDER", type=FILE)
@click.option("--preset", type=click.Choice(PRESETS), default="laptop", show_default=True, help="Where to train.")
@click.option("--out", type=FILE, help="Folder for the arguments of each step, one a line, which execute.sh reads.")
def look(folder: Path, preset: str, out: Path | None) -> None:
    """Look at FOLDER: which images can be used, what their captions are, and what to train with them."""
    from micro_diffusion.data.prepare.look import look as look_at
    from micro_diffusion.files.whole_file import whole_file

    found = look_at(folder)
    print("\n".join(described(found, preset)))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for step, arguments in steps(found, preset).items():
            with whole_file(out / f"{step}.args") as unfinished:
                unfinished.write_text("".join(f"{argument}\n" for argument in arguments), encoding="utf-8")


def described(found: Folder, preset: str) -> list[str]:
    """What was found, and what follows from it."""
    sides, origin = found.sides, {"reject": "texts", "name": "file names", "folder": "names of folders"}
    captions = f"from {origin[found.without_text]}, such as {'; '.join(found.captions[:3])}" if found.speaks else NONE
    lines = [
        f"{found.path}: {found.images} images, about {found.expected} can be used",
        *(f"  left out: {reason} ({count} of those looked at)" for reason, count in found.reasons.most_common()),
        f"  shorter side from {sides[0]} to {sides[-1]} px, half of them at least {sides[len(sides) // 2]} px",
        f"  captions {captions}",
        f"  {preset}: {resolution(found, preset)} px, {AUTOENCODER_STEPS} steps of the autoencoder, four stages",
    ]
    if found.expected < 300:
        lines.append("  fewer than 300 images are mostly learned by heart; more, or more different ones, help most")
    return lines


def resolution(found: Folder, preset: str) -> int:
    """What half of the images have without being enlarged, as far as the machine goes."""
    most = 64 if preset == "laptop" else 256
    middle = found.sides[len(found.sides) // 2]
    return next((side for side in (256, 128, 64) if side <= min(most, middle)), 64)


def finetune_steps(found: Folder) -> int:
    """On a laptop: as many as show each image so often, within bounds; images seen more often are learned by heart."""
    fewest, most = FINETUNE_STEPS
    return min(most, max(fewest, FINETUNE_EPOCHS * found.expected // BATCH_SIZE))


def steps(found: Folder, preset: str) -> dict[str, list[str]]:
    """The arguments of each command of `execute.sh mine`."""
    side = resolution(found, preset)
    half = side // 2
    source = ["source=image_folder", f"source.path={_quoted(found.path)}", f"source.without_text={found.without_text}"]
    captions = ",".join(_quoted(caption) for caption in found.captions)
    encoder = [] if found.speaks else ["text_encoder=none"]
    prompts = [f"prompts.captions=[{captions}]"] if found.speaks else [*encoder, "prompts=none", "model.caption_drop=0"]
    length = [f"trainer.max_duration={finetune_steps(found)}ba"] if preset == "laptop" else []
    machine = [] if preset == "laptop" else [f"machine={preset}", "backbone=tiny", "train_loader.batch_size=256"]
    return {
        "convert": [*source, "source.copies=reject", f"preparation.shorter_side={2 * side}"],
        "autoencoder": [f"resolution={side}", f"trainer.max_duration={AUTOENCODER_STEPS}ba"],
        "precompute": [f"resolutions=[{half},{side}]", *encoder],
        "plan": [f"--images={found.expected}", f"--machine={'cpu' if preset == 'laptop' else 'here'}"],
        "train": [*prompts, *machine],
        "small_pretrain": [f"resolution={half}"],
        "small_finetune": [f"resolution={half}", *length],
        "large_pretrain": [f"resolution={side}"],
        "large_finetune": [f"resolution={side}", *length],
    }


def _quoted(text: str) -> str:
    """A text in the quotes of Hydra's grammar."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
