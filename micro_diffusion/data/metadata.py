"""What a folder of MDS latents holds, so that training can compare it with its networks."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from micro_diffusion.data.output_folder import RECORD, read_record

PRECOMPUTE = "python scripts/precompute.py images=IMAGES out={path}"
"""The command that makes a folder of latents."""


@dataclass(frozen=True, kw_only=True)
class LatentMetadata:
    """The record of a folder of MDS latents.

    Attributes:
        samples: number of pictures.
        resolutions: sides of the encoded squares, pixels; ascending.
        autoencoder, text_encoder: names of the encoders' weights.
        channels, downsampling: of the latents, C and f; a latent is R/f × R/f.
        caption_dim, caption_length: width and number of rows of an encoded caption.
        latent_std: by resolution, standard deviation of all entries; the objective's sigma_data should be near it.
    """

    samples: int
    resolutions: list[int]
    autoencoder: str
    channels: int
    downsampling: int
    text_encoder: str
    caption_dim: int
    caption_length: int
    latent_std: dict[str, float]

    @classmethod
    def read(cls, path: str | Path) -> LatentMetadata:
        """The metadata of a folder.

        Raises:
            FileNotFoundError: when the folder has none.
        """
        path = Path(path).expanduser()
        if not (path / RECORD).is_file():
            raise FileNotFoundError(f"{path} has no {RECORD}; make it with: {PRECOMPUTE.format(path=path)}")
        record = read_record(path)
        absent = [field.name for field in fields(cls) if field.name not in record]
        if absent:
            raise ValueError(
                f"{path} holds no latents ({RECORD} lacks {', '.join(absent)}); set path to a folder of them"
            )
        return cls(**{field.name: record[field.name] for field in fields(cls)})

    def latent_size(self, resolution: int) -> int:
        """Side of a latent in cells.

        Raises:
            ValueError: when the folder has no latents of that resolution.
        """
        if resolution not in self.resolutions:
            held = ", ".join(map(str, self.resolutions))
            raise ValueError(
                f"the data have latents at {held} px, not at {resolution}; set resolution to one of these, or "
                f"precompute again with resolutions=[{held},{resolution}]"
            )
        return resolution // self.downsampling

    def check(self, *, in_channels: int, caption_dim: int) -> None:
        """Compare with what a backbone takes.

        Raises:
            ValueError: that says what to set.
        """
        if in_channels != self.channels:
            raise ValueError(
                f"backbone.in_channels is {in_channels}, but the latents of {self.autoencoder} have {self.channels} "
                f"channels; set backbone.in_channels={self.channels}, or precompute with another autoencoder"
            )
        if caption_dim != self.caption_dim:
            raise ValueError(
                f"backbone.caption_dim is {caption_dim}, but the captions of {self.text_encoder} have width "
                f"{self.caption_dim}; set backbone.caption_dim={self.caption_dim}, or precompute with another text "
                "encoder"
            )

    def other_encoders(self, *, autoencoder: str, text_encoder: str) -> list[str]:
        """Sentences about encoders whose names differ from those that made the data; none when all is well."""
        pairs = {"autoencoder": (self.autoencoder, autoencoder), "text_encoder": (self.text_encoder, text_encoder)}
        return [
            f"the data were made with the {kind} {made}, but pictures are drawn with {drawn}; set {kind} to the one "
            "that made the data, unless both are the same weights"
            for kind, (made, drawn) in pairs.items()
            if made != drawn
        ]
