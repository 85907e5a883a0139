"""Any text model in the format of transformers: encoders, and decoders such as Qwen and Gemma.

Legend: B captions, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from micro_diffusion.batch import TokenIds
from micro_diffusion.bounds import PositiveInt
from micro_diffusion.condition import Condition
from micro_diffusion.files.provenance import weights_digest
from micro_diffusion.text.encoder import check_stated
from micro_diffusion.text.pretrained import load_pretrained
from micro_diffusion.text.truncation import warn_of_cut


class TransformersTextEncoder:
    """A frozen text model: every token's output of one layer.

    Of an encoder-decoder it is the encoder, and of a model of several kinds of input the one for text. Code that comes
    with weights is not run. Captions are padded on the right and end with the end-of-text of the tokenizer, also where
    the model was trained without one. Padding is masked inside the model; its features are zero. Features are fp32
    whatever the dtype of the weights.

    Args:
        model: a local folder, or repository on the Hugging Face hub, from which weights are fetched when the object is
            made, never before.
        revision: branch, tag or commit of the repository; None for its main branch.
        max_length: L, end-of-text included.
        layer: whose output is taken: 0 for the embeddings, 1 for the first layer, -1 for the last one, which most
            models normalise, and -2 for the one before, which they do not.
        dim: what the config says D is, checked.
        dtype: of the weights.

    Raises:
        FileNotFoundError: when the weights are neither here nor within reach.
        ValueError: when the model is of another width than stated, has no such layer or not as many positions, or its
            tokenizer has no end-of-text.
    """

    def __init__(
        self,
        *,
        model: str,
        max_length: PositiveInt,
        revision: str | None = None,
        layer: int = -1,
        dim: PositiveInt | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    ) -> None:
        self.name = model if layer == -1 else f"{model}, layer {layer}"
        self.max_length, self.layer = max_length, layer
        self.device = torch.device("cpu")
        self.tokenizer, self.model = _load(model, revision, getattr(torch, dtype))
        layers: int = self.model.config.num_hidden_layers
        if not -layers - 1 <= layer <= layers:
            raise ValueError(
                f"text_encoder.layer is {layer}, but {model} has {layers} layers; set it from {-layers - 1} to {layers}"
            )
        most = getattr(self.model.config, "max_position_embeddings", None)
        if most is not None and max_length > most:
            raise ValueError(
                f"text_encoder.max_length is {max_length}, but {model} has {most} positions; set it to at most that"
            )
        ends = (self.tokenizer.eos_token_id, self.tokenizer.sep_token_id)  # the latter of BERT and its kind
        end = next((end for end in ends if end is not None), None)
        if end is None:
            raise ValueError(f"the tokenizer of {model} has no end-of-text; set its eos_token in tokenizer_config.json")
        self._end: int = end
        self.provenance = {
            "model": model,
            "revision": revision,
            "digest": weights_digest(self.model),
            "dtype": dtype,
            "layer": layer,
            "max_length": max_length,
        }
        self.dim: int = self.model.config.hidden_size
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
        ids = torch.full((len(captions), self.max_length), self._end)
        mask = torch.zeros(len(captions), self.max_length, dtype=torch.bool)
        for row, caption in enumerate(captions):
            numbers = self._numbers(caption)
            ids[row, : len(numbers)] = torch.tensor(numbers)
            mask[row, : len(numbers)] = True
        return TokenIds(ids, mask)

    @torch.no_grad()
    def encode_ids(self, text: TokenIds) -> Condition:
        """ids and mask (B, L) -> tokens (B, L, D) float32, zero after end-of-text, and the mask."""
        ids, mask = text.ids.to(self.device), text.mask.to(self.device)
        made = self.model(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True)
        return Condition(made.hidden_states[self.layer].float().masked_fill(~mask[..., None], 0), mask)

    def to(self, device: torch.device) -> None:
        """Move the weights."""
        self.device = device
        self.model.to(device)

    def _numbers(self, caption: str) -> list[int]:
        """The tokens of a caption, which begin as the tokenizer has them begin, and end with end-of-text."""
        numbers: list[int] = self.tokenizer(caption, verbose=False).input_ids
        if numbers and numbers[-1] == self._end:
            numbers.pop()
        fitting = self.max_length - 1
        if len(numbers) > fitting:
            warn_of_cut(caption, self.tokenizer.decode(numbers[fitting:]), self.max_length)
        return [*numbers[:fitting], self._end]


def _load(model: str, revision: str | None, dtype: torch.dtype) -> tuple[Any, Any]:
    """The tokenizer and the frozen network for text."""
    tokenizer, network = load_pretrained("AutoModel", model, revision, dtype, kind="text model")
    if network.config.is_encoder_decoder:
        network = network.get_encoder()
    return tokenizer, getattr(network, "language_model", getattr(network, "text_model", network))
