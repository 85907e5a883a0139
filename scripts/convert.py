"""Any source of captioned images -> MDS images.

python scripts/convert.py source=image_folder source.path=my/images out=data/mine/images
"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from micro_diffusion.training.config_checks.command_line import quote_texts
from micro_diffusion.training.config_checks.errors import one_sentence_errors
from micro_diffusion.training.config_checks.schema import validate_command


@hydra.main(version_base="1.3", config_path="../configs", config_name="convert")
def main(config: DictConfig) -> None:
    """Convert what the configuration describes."""
    with one_sentence_errors():
        validate_command(config)
        hydra.utils.call(config, _convert_="all")


if __name__ == "__main__":
    with one_sentence_errors():
        quote_texts(Path(__file__).resolve().parents[1] / "configs", "convert")
        main()
