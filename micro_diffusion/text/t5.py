"""T5 encoders in the format of transformers (Raffel et al. 2020). Legend: B captions, L tokens, D width."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from micro_diffusion.batch import TokenIds
from micro_diffusion.bounds import PositiveInt
from micro_diffusion.condition import Condition
from micro_diffusion.files.provenance import weights_digest
from micro_diffusion.text.encoder import check_stated
from micro_diffusion.text.pretrained import load_pretrained
from micro_diffusion.text.truncation import warn_of_cut


class T5TextEncoder:
    """A frozen T5 encoder: every token's output of the last layer, after the final norm.

    The weights are fetched when the object is made, never before. Padding is masked inside the encoder; its features
    are zero. Features are fp32 whatever the dtype of the weights.

    Args:
        model: repository on the Hugging Face hub, or a local folder.
        revision: branch, tag or commit of the repository; None for its main branch.
        max_length: L, end-of-text included.
        dim: what the config says D is, checked.
        dtype: of the weights: "float32" or "bfloat16"; T5 overflows in float16.

    Raises:
        FileNotFoundError: when the weights are neither here nor within reach.
        ValueError: when the encoder is of another width than stated, or float16 is asked for.
    """

    def __init__(
        self,
        *,
        model: str,
        max_length: PositiveInt,
        revision: str | None = None,
        dim: PositiveInt | None = None,
        dtype: str = "float32",
    ) -> None:
        if dtype == "float16":
            raise ValueError("T5 overflows in float16; set text_encoder.dtype to float32 or bfloat16")
        self.name = model
        self.max_length = max_length
        self.device = torch.device("cpu")
        self.tokenizer, self.encoder = load_pretrained(
            "T5EncoderModel", model, revision, getattr(torch, dtype), kind="T5 encoder"
        )
        self.provenance = {
            "model": model,
            "revision": revision,
            "digest": weights_digest(self.encoder),
            "dtype": dtype,
            "max_length": max_length,
        }
        self.dim: int = self.encoder.config.d_model
        check_stated(model, "dim", dim, self.dim)

    @staticmethod
    def repository(*, model: str, **_: object) -> str:
        """Where its weights come from: a repository of the hub, or a folder."""
        return model

    def encode(self, captions: Sequence[str]) -> Condition:
        """B captions -> tokens (B, L, D) float32 and mask (B, L), true up to and including end-of-text."""
        return self.encode_ids(self.tokenize(captions))

    def tokenize(self, captions: Sequence[str]) -> TokenIds:
        """B captions -> ids and mask (B, L)."""
        for caption in captions:
            self._warn_when_cut(caption)
        batch = self.tokenizer(
            list(captions), max_length=self.max_length, padding="max_length", truncation=True, return_tensors="pt"
        )
        return TokenIds(batch.input_ids, batch.attention_mask.bool())

    @torch.no_grad()
    def encode_ids(self, text: TokenIds) -> Condition:
        """ids and mask (B, L) -> tokens (B, L, D) float32, zero after end-of-text, and the mask."""
        ids, mask = text.ids.to(self.device), text.mask.to(self.device)
        tokens = self.encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return Condition(tokens.float().masked_fill(~mask[..., None], 0), mask)

    def to(self, device: torch.device) -> None:
        """Move the weights."""
        self.device = device
        self.encoder.to(device)

    def _warn_when_cut(self, caption: str) -> None:
        ids = self.tokenizer(caption, add_special_tokens=False, verbose=False).input_ids
        cut = ids[self.max_length - 1 :]  # end-of-text takes one token
        if cut:
            warn_of_cut(caption, self.tokenizer.decode(cut), self.max_length)
