"""Text models of transformers by their folder, on small random weights and a vocabulary that the test makes itself."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Model,
    T5Config,
    T5Model,
)

from micro_diffusion.data.format.caption_formats import CaptionIds, CaptionLongIds
from micro_diffusion.text.encoder import TokenizingEncoder
from micro_diffusion.text.t5 import T5TextEncoder
from micro_diffusion.text.transformers_text import TransformersTextEncoder

WORDS = ["<pad>", "</s>", "<unk>", "<bos>", "a", "large", "red", "circle", "two"]
CAPTIONS = ["a large red circle", "", "two"]
SIZES: dict[str, Any] = {"vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3}
SIZES |= {"num_attention_heads": 2, "max_position_embeddings": 600}
GROUPED = SIZES | {"num_key_value_heads": 1}
T5 = {"vocab_size": len(WORDS), "d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 3, "num_heads": 3}
MODELS = {
    "qwen": lambda: Qwen2Model(Qwen2Config(**GROUPED)),
    "gemma": lambda: Gemma2Model(Gemma2Config(**GROUPED, head_dim=8)),
    "bert": lambda: BertModel(BertConfig(**SIZES)),
    "t5": lambda: T5Model(T5Config(**T5)),
}


def saved(folder: Path, kind: str) -> Path:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    if kind == "gemma":
        words.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 3)])
    if kind == "t5":
        words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    torch.manual_seed(0)
    MODELS[kind]().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_of_model_gives_features_that_padding_does_not_change(tmp_path, kind):
    folder = saved(tmp_path, kind)
    encoder = TransformersTextEncoder(model=str(folder), max_length=7, dim=16)
    assert isinstance(encoder, TokenizingEncoder)
    text = encoder.encode(CAPTIONS)
    begins = int(kind == "gemma")
    assert text.mask is not None and text.mask.sum(dim=1).tolist() == [5 + begins, 1 + begins, 2 + begins]
    assert text.tokens.dtype == torch.float32 and text.tokens.shape == (3, 7, 16)
    assert text.tokens[~text.mask].abs().sum() == 0
    alone = encoder.encode(CAPTIONS[2:]).tokens[0]
    torch.testing.assert_close(alone, text.tokens[2])
    longer = TransformersTextEncoder(model=str(folder), max_length=512).encode(CAPTIONS).tokens
    torch.testing.assert_close(longer[:, :7], text.tokens)


def test_t5_is_the_same_by_either_way_and_takes_512_tokens(tmp_path):
    folder = saved(tmp_path, "t5")
    ours, theirs = (made(model=str(folder), max_length=512) for made in (TransformersTextEncoder, T5TextEncoder))
    captions = [*CAPTIONS, "a large red circle " * 120]
    assert torch.equal(ours.encode(captions).tokens, theirs.encode(captions).tokens)


def test_a_layer_is_chosen(tmp_path):
    folder = saved(tmp_path, "qwen")
    outputs = {
        layer: TransformersTextEncoder(model=str(folder), max_length=7, layer=layer).encode(CAPTIONS).tokens
        for layer in (0, -2, 2, -1, 3)
    }
    network = Qwen2Model.from_pretrained(folder)
    embedded = network.embed_tokens(torch.tensor([[8, 1]]))
    torch.testing.assert_close(outputs[0][2, :2], embedded[0])
    assert torch.equal(outputs[-2], outputs[2]) and torch.equal(outputs[-1], outputs[3])
    assert not torch.allclose(outputs[-1], outputs[-2])
    with pytest.raises(ValueError, match="layer is 4, but .* has 3 layers; set it from -4 to 3"):
        TransformersTextEncoder(model=str(folder), max_length=7, layer=4)


def test_a_long_caption_is_cut_with_a_warning_and_too_many_positions_are_refused(tmp_path):
    folder = saved(tmp_path, "qwen")
    encoder = TransformersTextEncoder(model=str(folder), max_length=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.encode(["a red circle"])
    with pytest.warns(UserWarning, match="'circle two'"):
        assert encoder.tokenize(["a large red circle two"]).ids.tolist() == [[4, 5, 6, 1]]
    with pytest.raises(ValueError, match="max_length is 601, but .* has 600 positions"):
        TransformersTextEncoder(model=str(folder), max_length=601)
    with pytest.raises(ValueError, match="text_encoder.dim is 512, but .* has 16"):
        TransformersTextEncoder(model=str(folder), max_length=6, dim=512)
    with pytest.raises(FileNotFoundError, match="there is no text model to load from .*; connect"):
        TransformersTextEncoder(model=str(tmp_path / "none"), max_length=6)


def test_token_ids_beyond_two_bytes_are_stored_in_four(tmp_path):
    encoder = TransformersTextEncoder(model=str(saved(tmp_path, "qwen")), max_length=4)
    encoder._end = 151_643  # as Qwen's
    with pytest.raises(ValueError, match="151643, which 2 bytes cannot hold; set caption_format to token_ids_4"):
        CaptionIds().encode(encoder, ["a"])
    stored = CaptionLongIds().encode(encoder, ["a", "two"])
    assert stored["caption_ids"][1].tolist() == [8, 151_643, 151_643, 151_643]
    assert CaptionLongIds().columns(4, 16)["caption_ids"] == "ndarray:uint32:4"
