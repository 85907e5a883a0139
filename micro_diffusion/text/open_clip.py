"""Text towers of CLIP models in the format of open_clip. Legend: B captions, L tokens, D width."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from micro_diffusion.batch import TokenIds
from micro_diffusion.bounds import PositiveInt
from micro_diffusion.condition import Condition
from micro_diffusion.files.provenance import weights_digest
from micro_diffusion.text.encoder import check_stated
from micro_diffusion.text.truncation import warn_of_cut

_HUB = "hf-hub:"


class OpenClipTextEncoder:
    """A frozen CLIP text tower: every token's output of the last layer after the final norm, without projection.

    The weights are fetched when the object is made, never before; the image tower is dropped at once. Features are fp32
    whatever the dtype of the weights.

    Args:
        model: "hf-hub:OWNER/NAME", a local folder with open_clip_config.json and weights, or, together with `weights`,
            the name of an architecture that open_clip knows.
        weights: file of weights of that architecture, or open_clip's tag of released ones; None with a hub name or a
            folder.
        dim: what the config says D is, checked.
        max_length: what the config says L is, checked.
        dtype: of the weights: "float32", "bfloat16" or "float16".

    Raises:
        FileNotFoundError: when the weights are neither here nor within reach.
        ValueError: when the text tower is of another shape than stated, or of another kind than CLIP's own.
    """

    def __init__(
        self,
        *,
        model: str,
        weights: str | None = None,
        dim: PositiveInt | None = None,
        max_length: PositiveInt | None = None,
        dtype: str = "float32",
    ) -> None:
        self.name = model if weights is None else f"{model}/{weights}"
        self.device = torch.device("cpu")
        self.tower, self.tokenizer = _load(model, weights)
        self.tower.to(getattr(torch, dtype))
        self.provenance = {
            "model": model,
            "weights": weights,
            "digest": weights_digest(self.tower),
            "dtype": dtype,
        }
        self.dim = self.tower.width
        self.max_length = self.tower.context_length
        check_stated(self.name, "dim", dim, self.dim)
        check_stated(self.name, "max_length", max_length, self.max_length)

    @staticmethod
    def repository(*, model: str, weights: str | None = None, **_: object) -> str:
        """Where its weights come from: a repository of the hub, or a file or folder."""
        return (model if weights is None else weights).removeprefix(_HUB)

    def encode(self, captions: Sequence[str]) -> Condition:
        """B captions -> tokens (B, L, D) float32 and mask (B, L), true up to and including end-of-text."""
        return self.encode_ids(self.tokenize(captions))

    def tokenize(self, captions: Sequence[str]) -> TokenIds:
        """B captions -> ids and mask (B, L)."""
        for caption in captions:
            self._warn_when_cut(caption)
        ids = self.tokenizer(list(captions), context_length=self.max_length)
        is_end = ids == self.tokenizer.eot_token_id
        return TokenIds(ids, is_end.int().cumsum(dim=1) - is_end.int() == 0)  # no end-of-text before this token

    @torch.no_grad()
    def encode_ids(self, text: TokenIds) -> Condition:
        """ids and mask (B, L) -> tokens (B, L, D) float32 and the mask."""
        _, tokens = self.tower(text.ids.to(self.device))
        return Condition(tokens.float(), text.mask.to(self.device))

    def to(self, device: torch.device) -> None:
        """Move the weights."""
        self.device = device
        self.tower.to(device)

    def _warn_when_cut(self, caption: str) -> None:
        cut = self.tokenizer.encode(caption)[self.max_length - 2 :]  # start and end take two tokens
        if cut:
            warn_of_cut(caption, self.tokenizer.decode(cut).strip(), self.max_length)


def _load(model: str, weights: str | None) -> tuple[Any, Any]:
    """The text tower, frozen and giving all tokens, and its tokenizer."""
    import open_clip  # takes seconds, and only this class needs it
    from open_clip.tokenizer import SimpleTokenizer
    from open_clip.transformer import TextTransformer

    if weights is None and not model.startswith(_HUB):
        folder = Path(model).expanduser().absolute()
        if not (folder / "open_clip_config.json").is_file():
            raise FileNotFoundError(
                f"there is no open_clip_config.json in {folder}; set text_encoder.model to a folder that has it "
                f"beside the weights, to a hub name such as {_HUB}apple/DFN5B-CLIP-ViT-H-14-378, or to an architecture "
                "that open_clip knows together with text_encoder.weights"
            )
        model = f"local-dir:{folder}"
    try:
        clip = open_clip.create_model(model, pretrained=weights, force_custom_text=True, require_pretrained=True)
        tokenizer = open_clip.get_tokenizer(model)
    except (OSError, RuntimeError) as error:
        source = model if weights is None else f"{model} with weights {weights}"
        raise FileNotFoundError(
            f"there is no text encoder to load from {source} ({str(error).strip().splitlines()[0]}); connect to the "
            "network once, or run `huggingface-cli download` elsewhere and set text_encoder.model to the folder"
        ) from error
    tower: Any = clip.text
    usual = isinstance(tower, TextTransformer) and tower.cls_emb is None and isinstance(tokenizer, SimpleTokenizer)
    if not usual:
        raise ValueError(
            f"{model} has a text tower of type {type(tower).__name__} with a {type(tokenizer).__name__}; set "
            "text_encoder.model to one with CLIP's own text transformer and tokenizer"
        )
    tower.output_tokens = True
    return tower.eval().requires_grad_(False), tokenizer
