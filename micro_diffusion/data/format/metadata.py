"""What a folder of MDS latents holds, so that training can compare it with its networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from micro_diffusion.data.format.caption_formats import EXACT_CAPTIONS, restore_caption_format
from micro_diffusion.data.format.columns import describe
from micro_diffusion.data.format.latent_formats import EXACT_LATENTS, restore_latent_format
from micro_diffusion.data.format.record import RECORD, read_record
from micro_diffusion.data.format.row_format import RowFormat

PRECOMPUTE = "python scripts/precompute.py images=IMAGES out={path}"
"""The command that makes a folder of latents."""

PLACES = ("path", "subfolder", "revision", "model", "weights")
"""Arguments of encoders that say where their weights are from."""

SCALING = ("scaling_factor", "shift_factor", "max_length")


_KINDS = {
    "samples": int,
    "resolutions": list,
    "channels": int,
    "downsampling": int,
    "captions_per_image": int,
    "latent_std": dict,
}


@dataclass(frozen=True, kw_only=True)
class LatentMetadata:
    """The record of a folder of MDS latents.

    Attributes:
        samples: number of images.
        resolutions: sides of the encoded squares, pixels; ascending.
        autoencoder, text_encoder: names of the encoders' weights.
        channels, downsampling: of the latents, C and f.
        latent_sizes: by resolution, [height, width] of a latent.
        latent_format, caption_format: how both are stored, by name and settings.
        caption_dim, caption_length: width and number of rows of an encoded caption.
        captions_per_image: of which training draws one.
        encoders: provenance of both, by "autoencoder" and "text_encoder".
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
    captions_per_image: int = 1
    latent_sizes: dict[str, list[int]] = field(default_factory=dict)
    encoders: dict[str, dict[str, Any]] = field(default_factory=dict)
    latent_format: dict[str, Any] = field(default_factory=lambda: describe(EXACT_LATENTS))
    caption_format: dict[str, Any] = field(default_factory=lambda: describe(EXACT_CAPTIONS))

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
        known = {entry.name: entry for entry in fields(cls)}
        required = [e.name for e in known.values() if e.default is MISSING and e.default_factory is MISSING]
        absent = [name for name in required if name not in record]
        if absent:
            raise ValueError(
                f"{path} holds no latents ({RECORD} lacks {', '.join(absent)}); set path to a folder of them"
            )
        wrong = [name for name, kind in _KINDS.items() if name in record and not isinstance(record[name], kind)]
        if wrong:
            raise ValueError(f"{path / RECORD} is damaged ({', '.join(wrong)}); make the folder again")
        return cls(**{name: record[name] for name in known if name in record})

    @property
    def row_format(self) -> RowFormat:
        """How the rows are read."""
        return RowFormat(
            latents=restore_latent_format(self.latent_format),
            captions=restore_caption_format(self.caption_format),
            channels=self.channels,
            latent_sizes={resolution: self.latent_size(resolution) for resolution in self.resolutions},
            caption_length=self.caption_length,
            caption_dim=self.caption_dim,
            captions_per_image=self.captions_per_image,
        )

    def latent_size(self, resolution: int) -> tuple[int, int]:
        """Height and width of a latent in cells.

        Raises:
            ValueError: when the folder has no latents of that resolution.
        """
        if resolution not in self.resolutions:
            held = ", ".join(map(str, self.resolutions))
            raise ValueError(
                f"the data have latents at {held} px, not at {resolution}; set resolution to one of these, or "
                f"precompute again with resolutions=[{held},{resolution}]"
            )
        square = [resolution // self.downsampling] * 2
        height, width = self.latent_sizes.get(str(resolution), square)
        return height, width

    def check(self, *, in_channels: int, caption_dim: int | None) -> None:
        """Compare with what a network takes; a caption_dim of None takes no captions.

        Raises:
            ValueError: that says what to set.
        """
        if in_channels != self.channels:
            raise ValueError(
                f"backbone.in_channels is {in_channels}, but the latents of {self.autoencoder} have {self.channels} "
                f"channels; set backbone.in_channels={self.channels}, or precompute with another autoencoder"
            )
        if caption_dim not in (None, self.caption_dim):
            raise ValueError(
                f"backbone.caption_dim is {caption_dim}, but the captions of {self.text_encoder} have width "
                f"{self.caption_dim}; set backbone.caption_dim={self.caption_dim}, or precompute with another text "
                "encoder"
            )

    def check_factor(self, downsampling: int | None) -> None:
        """Compare with the factor that a config states of its autoencoder; None states nothing.

        Raises:
            ValueError: that says what to set.
        """
        if downsampling is not None and downsampling != self.downsampling:
            raise ValueError(
                f"autoencoder.downsampling is {downsampling}, but {self.autoencoder}, which made the data, has "
                f"{self.downsampling}; set autoencoder to that one, or precompute again with the other"
            )

    def check_captions(self, *, masked: bool, text_encoder: Mapping[str, Any] | None) -> None:
        """Compare how the captions are stored with what becomes of them.

        Args:
            masked: whether the network leaves out the rows after end-of-text.
            text_encoder: provenance of the one that runs in the training step; None where none does.

        Raises:
            ValueError: that says what to set.
        """
        captions = self.row_format.captions
        if not captions.padded and not masked:
            raise ValueError(
                "the data hold captions up to end-of-text, but the backbone attends to the rows after it as well; set "
                "backbone.use_caption_mask=true, or precompute again with caption_format=float16"
            )
        if captions.encoded and text_encoder is not None:
            raise ValueError(
                "the data hold the features of captions, so model.text_encoder would have nothing to do; set "
                "model.text_encoder=null, or precompute again with caption_format=token_ids"
            )
        if not captions.encoded and text_encoder is None:
            raise ValueError(
                "the data hold captions as token ids, but no text encoder runs in the training step; add "
                "+variant=token_ids"
            )
        if text_encoder is not None:
            self.check_encoder("text_encoder", text_encoder)

    def states_encoder(self, kind: str, stated: Mapping[str, Any]) -> bool:
        """Whether a config names, letter for letter, the weights and scaling of the encoder that made the data.

        False for encoders that are not known by where their weights are from.
        """
        made = self.encoders.get(kind, {})
        named = [key for key in PLACES if key in made]
        same = all(made[key] == stated.get(key) for key in named)
        return (
            bool(named)
            and same
            and all(made.get(key, value) == value for key, value in stated.items() if key in SCALING)
        )

    def check_encoder(self, kind: str, provenance: Mapping[str, Any]) -> None:
        """Compare an encoder with the one that made the data; where both have a digest, it decides, not their places.

        Args:
            kind: "autoencoder" or "text_encoder".
            provenance: of the encoder.

        Raises:
            ValueError: that says which values differ.
        """
        made = self.encoders.get(kind, {})
        digests = "digest" in made and "digest" in provenance
        ignored = {"dtype", *(PLACES if digests else ())}
        differing = [key for key in made if key not in ignored and made[key] != provenance.get(key)]
        if differing:
            shown = [*(key for key in PLACES if made.get(key) != provenance.get(key)), *differing]
            values = ", ".join(
                f"{key} {made.get(key)} instead of {provenance.get(key)}" for key in dict.fromkeys(shown)
            )
            raise ValueError(
                f"another {kind} made the data than the config has: {values}; set {kind} to the one that made the "
                "data, or precompute again"
            )
