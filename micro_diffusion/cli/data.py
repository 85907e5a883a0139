"""`micro-diffusion data describe`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from micro_diffusion.cli.arguments import FILE, POSITIVE


@click.group(short_help="look at prepared data")
def data() -> None:
    """Look at prepared data."""


@data.command(short_help="what a data folder holds")
@click.argument("folder", metavar="FOLDER", type=FILE)
@click.option("--out", type=FILE, help="JSON file; the sheet lies beside it.  [default: FOLDER.json]")
@click.option("--samples", type=POSITIVE, default=4096, show_default=True, help="To look at, evenly spaced.")
@click.option(
    "--autoencoder", metavar="FOLDER", help="The one that made the latents.  [default: the bundled autoencoder]"
)
def describe(folder: Path, out: Path | None, samples: int, autoencoder: str | None) -> None:
    """Say what FOLDER of MDS images or MDS latents holds.

    Numbers (sizes, captions, moments of the latents and the sigma_data that follows from them), and a contact sheet of
    its images.
    """
    from micro_diffusion.cli.contact_sheet import IMAGE_SIDE, IMAGES, contact_sheet, decoded_sheet, lines
    from micro_diffusion.data.prepare.description import DataFolder
    from micro_diffusion.files.outputs import check_output_file, named_folder
    from micro_diffusion.sampling.image_file import save_image

    folder = named_folder(folder)
    data = DataFolder(folder, count=samples)
    out = out or folder.with_name(f"{folder.name}.json")
    if out.suffix != ".json":
        raise ValueError(f"--out {out} does not end in .json; the contact sheet gets the same name with .png")
    check_output_file(out)
    if data.holds_images and autoencoder is not None:
        raise ValueError(f"{folder} holds images, which need no --autoencoder; leave it out")
    described = data.describe()
    print("\n".join(lines(described)))
    out.write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if data.holds_images:
        sheet = contact_sheet(*data.images(IMAGES, IMAGE_SIDE))
    else:
        sheet = decoded_sheet(data, autoencoder or "bundled:autoencoder")
    if sheet is None:
        print(
            f"\n{out}: the numbers; there is no contact sheet, because the autoencoder {described['autoencoder']} is "
            "not at hand: name its folder with --autoencoder"
        )
        return
    save_image(sheet, out.with_suffix(".png"), {"path": described["path"]})
    print(f"\n{out}: the numbers; {out.with_suffix('.png')}: {min(IMAGES, described['looked_at'])} images")
