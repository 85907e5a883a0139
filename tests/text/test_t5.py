"""The T5 encoder, on small weights and a small vocabulary that the test makes itself."""

from __future__ import annotations

import warnings

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from micro_diffusion.text.encoder import TextEncoder
from micro_diffusion.text.t5 import T5TextEncoder

WORDS = ["<pad>", "</s>", "<unk>", "a", "large", "red", "circle", "two"]
CAPTIONS = ["a large red circle", "", "two"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    torch.manual_seed(0)
    config = T5Config(vocab_size=len(WORDS), d_model=12, d_kv=4, d_ff=16, num_layers=2, num_heads=3)
    T5EncoderModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(folder):
    return T5TextEncoder(model=str(folder), max_length=6, dim=12)


def test_is_a_text_encoder(encoder):
    assert isinstance(encoder, TextEncoder)


def test_mask_ends_with_end_of_text_and_padding_is_zero(encoder):
    text = encoder.encode(CAPTIONS)
    assert text.mask.sum(dim=1).tolist() == [5, 1, 2]
    assert text.tokens[~text.mask].abs().sum() == 0


def test_features_do_not_depend_on_padding(encoder, folder):
    longer = T5TextEncoder(model=str(folder), max_length=9)
    torch.testing.assert_close(longer.encode(CAPTIONS).tokens[:, :6], encoder.encode(CAPTIONS).tokens)


def test_a_long_caption_is_cut_with_a_warning_naming_the_words(encoder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.encode(["a large red red circle"])
    with pytest.warns(UserWarning, match="'circle two'"):
        assert encoder.encode(["a large red red red circle two"]).mask.all()


def test_stated_width_is_checked(folder):
    with pytest.raises(ValueError, match="text_encoder.dim is 512, but .* has 12"):
        T5TextEncoder(model=str(folder), max_length=6, dim=512)


def test_float16_is_refused(folder):
    with pytest.raises(ValueError, match="T5 overflows in float16"):
        T5TextEncoder(model=str(folder), max_length=6, dtype="float16")


def test_missing_weights_give_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no T5 encoder to load from .*; connect") as error:
        T5TextEncoder(model=str(tmp_path), max_length=6)
    assert "\n" not in str(error.value)
