"""`micro-diffusion nearest`: are generated images copies of training images?"""

from __future__ import annotations

from pathlib import Path

import click

from micro_diffusion.cli.arguments import FILE


@click.command(short_help="generated images beside the nearest training images")
@click.argument("images", metavar="IMAGES", type=FILE)
@click.option("--training", type=FILE, required=True, help="Folder of the MDS images that were trained on.")
@click.option(
    "--unseen", type=FILE, required=True, help="Folder of MDS images that were not, such as data/mine/images/eval."
)
@click.option("--out", type=FILE, required=True, help="Image file: each image, and below it the nearest one.")
def nearest(images: Path, training: Path, unseen: Path, out: Path) -> None:
    """Show each of IMAGES, a folder that generate has made, above the training image nearest to it.

    Says how many are nearer to a training image than 95 % of the unseen images are: about 5 % where nothing is copied.
    """
    import torch

    from micro_diffusion.evaluation.nearest import SIDE, copied, images_of_data, images_of_files
    from micro_diffusion.evaluation.nearest import nearest as nearest_of
    from micro_diffusion.sampling.grid import captioned_grid, to_pil
    from micro_diffusion.sampling.image_file import check_image_file, save_image

    check_image_file(out)
    generated, known, others = (
        images_of_files(images, SIDE),
        images_of_data(training, SIDE),
        images_of_data(unseen, SIDE),
    )
    found, usual = nearest_of(generated, known), nearest_of(others, known)
    share = copied(found.distance, usual.distance)
    # evenly spaced, so that all prompts are shown
    shown = torch.linspace(0, len(generated) - 1, min(8, len(generated))).long()
    rows = torch.cat([generated[shown], known[found.index[shown]]])
    words = ["generated"] * len(shown) + [f"nearest, {distance:.3f}" for distance in found.distance[shown]]
    sheet = to_pil(rows[0]) if len(rows) == 1 else captioned_grid(rows, words, columns=len(shown))
    save_image(sheet, out, {"images": str(images), "training": str(training), "nearer_than_unseen": share})
    print(
        f"{out}: {share:.0%} of {len(generated)} images are nearer to a training image than 95 % of {len(others)} "
        f"unseen ones (medians {found.distance.median():.3f} and {usual.distance.median():.3f})"
    )
