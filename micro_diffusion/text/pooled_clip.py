"""CLIP's own feature of a caption: one token, pooled and projected (Radford et al. 2021, arXiv 2103.00020, §2.3).

It is not normalised to length 1. The network of apapiu/transformer_latent_diffusion is trained with that of ViT-L/14.
Legend: B captions, D width of the space that CLIP shares with images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from micro_diffusion.bounds import PositiveInt
from micro_diffusion.condition import Condition
from micro_diffusion.files.provenance import weights_digest
from micro_diffusion.text.encoder import check_stated
from micro_diffusion.text.open_clip import OpenClipTextEncoder
from micro_diffusion.text.pretrained import load_pretrained
from micro_diffusion.text.truncation import warn_of_cut


class PooledOpenClip:
    """The projected end-of-text feature of a text tower that open_clip loads, in fp32 whatever the weights' dtype.

    OpenAI's weights need the architecture with their own activation: ViT-L-14-quickgelu.

    Args:
        model, weights, dtype: as of `OpenClipTextEncoder`.
        dim: what the config says D is, checked.
        max_length: what the config says the number of tokens is, checked; it is 1.

    Raises:
        FileNotFoundError: when the weights are neither here nor within reach.
        ValueError: when the text tower is of another width than stated, projects nothing or is of another kind.
    """

    def __init__(
        self,
        *,
        model: str,
        weights: str | None = None,
        dim: PositiveInt | None = None,
        max_length: PositiveInt = 1,
        dtype: str = "float32",
    ) -> None:
        self.encoder = OpenClipTextEncoder(model=model, weights=weights, dtype=dtype)
        self.name = f"{self.encoder.name}, pooled"
        self.max_length = 1
        if self.encoder.tower.text_projection is None:
            raise ValueError(f"the text tower of {model} projects nothing; set text_encoder.model to that of a CLIP")
        self.provenance = {**self.encoder.provenance, "pooled": True}
        self.dim: int = self.encoder.tower.output_dim
        check_stated(self.name, "dim", dim, self.dim)
        check_stated(self.name, "max_length", max_length, self.max_length)

    repository = staticmethod(OpenClipTextEncoder.repository)

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> Condition:
        """B captions -> tokens (B, 1, D) float32 and mask (B, 1); one that is too long is cut, with a warning."""
        ids = self.encoder.tokenize(captions).ids.to(self.encoder.device)
        pooled, _ = self.encoder.tower(ids)
        return _one_token(pooled)

    def to(self, device: torch.device) -> None:
        """Move the weights."""
        self.encoder.to(device)


class PooledTransformersClip:
    """The same of weights in the format of transformers: `text_embeds` of its CLIPTextModelWithProjection.

    Args:
        model: repository on the Hugging Face hub, or a local folder.
        revision: branch, tag or commit of the repository; None for its main branch.
        dim: what the config says D is, checked.
        max_length: what the config says the number of tokens is, checked; it is 1.
        dtype: of the weights: "float32", "bfloat16" or "float16".

    Raises:
        FileNotFoundError: when the weights are neither here nor within reach.
        ValueError: when the encoder is of another width than stated.
    """

    def __init__(
        self,
        *,
        model: str,
        revision: str | None = None,
        dim: PositiveInt | None = None,
        max_length: PositiveInt = 1,
        dtype: str = "float32",
    ) -> None:
        self.name = f"{model}, pooled"
        self.max_length = 1
        self.device = torch.device("cpu")
        self.tokenizer, self.tower = load_pretrained(
            "CLIPTextModelWithProjection", model, revision, getattr(torch, dtype), kind="CLIP text model"
        )
        self.length: int = self.tower.config.max_position_embeddings
        self.provenance = {
            "model": model,
            "revision": revision,
            "digest": weights_digest(self.tower),
            "dtype": dtype,
            "pooled": True,
        }
        self.dim: int = self.tower.config.projection_dim
        check_stated(self.name, "dim", dim, self.dim)
        check_stated(self.name, "max_length", max_length, self.max_length)

    @staticmethod
    def repository(*, model: str, **_: object) -> str:
        """Where its weights come from: a repository of the hub, or a folder."""
        return model

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> Condition:
        """B captions -> tokens (B, 1, D) float32 and mask (B, 1); one that is too long is cut, with a warning."""
        for caption in captions:
            self._warn_when_cut(caption)
        batch = self.tokenizer(
            list(captions), max_length=self.length, padding="max_length", truncation=True, return_tensors="pt"
        )
        ids, mask = batch.input_ids.to(self.device), batch.attention_mask.to(self.device)
        return _one_token(self.tower(input_ids=ids, attention_mask=mask).text_embeds)

    def to(self, device: torch.device) -> None:
        """Move the weights."""
        self.device = device
        self.tower.to(device)

    def _warn_when_cut(self, caption: str) -> None:
        ids = self.tokenizer(caption, add_special_tokens=False, verbose=False).input_ids
        if cut := ids[self.length - 2 :]:  # start and end take two tokens
            warn_of_cut(caption, self.tokenizer.decode(cut).strip(), self.length)


def _one_token(pooled: Tensor) -> Condition:
    """(B, D) -> tokens (B, 1, D) and a mask that is true."""
    return Condition(pooled.float()[:, None], torch.ones(len(pooled), 1, dtype=torch.bool, device=pooled.device))
