"""Trains what a configuration describes.

composer train.py --config-path ./configs --config-name 256_pretrain.yaml exp_name=masked model.train_mask_ratio=0.75
"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from micro_diffusion.training.config_checks.command_line import quote_texts
from micro_diffusion.training.config_checks.errors import one_sentence_errors
from micro_diffusion.training.config_checks.resolvers import register_resolvers

register_resolvers()


@hydra.main(version_base="1.3", config_path="configs", config_name="quickstart_32_pretrain")
def main(config: DictConfig) -> None:
    """Compose, build, fit."""
    from micro_diffusion.training.build import train  # imports the whole stack; --help and typos need not wait

    with one_sentence_errors():
        train(config)


if __name__ == "__main__":
    with one_sentence_errors():
        quote_texts(Path(__file__).resolve().parent / "configs", "quickstart_32_pretrain")
        main()
