"""MDS images -> MDS latents and encoded captions, at all resolutions in one pass.

python scripts/precompute.py images=data/mine/images out=data/mine/latents resolutions=[256,512]
composer -n 8 scripts/precompute.py images=... out=...
"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from micro_diffusion.data.prepare.ranks import joined
from micro_diffusion.training.config_checks.command_line import quote_texts
from micro_diffusion.training.config_checks.errors import one_sentence_errors
from micro_diffusion.training.config_checks.resolvers import register_resolvers
from micro_diffusion.training.config_checks.schema import validate_command

register_resolvers()


@hydra.main(version_base="1.3", config_path="../configs", config_name="precompute")
def main(config: DictConfig) -> None:
    """Precompute what the configuration describes."""
    with one_sentence_errors():
        validate_command(config)
        with joined():  # before the encoders are put on a GPU
            hydra.utils.call(config, _convert_="all")


if __name__ == "__main__":
    with one_sentence_errors():
        quote_texts(Path(__file__).resolve().parents[1] / "configs", "precompute")
        main()
