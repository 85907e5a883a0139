"""Latents and pooled captions that another program has made -> MDS latents.

python scripts/import_pairs.py pairs.latents=mj_latents.npy pairs.features=mj_text_emb.npy out=data/mj/latents
python scripts/import_pairs.py pairs=hdf5 pairs.path=latents.hdf5 pairs.captions=metadata.csv out=data/mine/latents
"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from micro_diffusion.training.config_checks.command_line import quote_texts
from micro_diffusion.training.config_checks.errors import one_sentence_errors
from micro_diffusion.training.config_checks.schema import validate_command


@hydra.main(version_base="1.3", config_path="../configs", config_name="import_pairs")
def main(config: DictConfig) -> None:
    """Import what the configuration describes."""
    with one_sentence_errors():
        validate_command(config)
        hydra.utils.call(config, _convert_="all")


if __name__ == "__main__":
    with one_sentence_errors():
        quote_texts(Path(__file__).resolve().parents[1] / "configs", "import_pairs")
        main()
