"""Classes by name and number, and no captions at all."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from micro_diffusion.text.classes import ClassEncoder
from micro_diffusion.text.encoder import TextEncoder, TokenizingEncoder
from micro_diffusion.text.none import NoEncoder

NAMES = ["tabby cat", "dog", "7", "Goldfish"]


def test_a_class_has_a_token_of_its_own_and_may_be_named_by_its_number():
    text = ClassEncoder(names=NAMES, dim=4).encode(["dog", "tabby cat", "1", "Goldfish"])
    assert text.tokens.shape == (4, 1, 4)
    assert text.tokens[:, 0].argmax(dim=1).tolist() == [1, 0, 1, 3] and (text.tokens.sum(dim=-1) == 1).all()
    assert text.mask is not None and text.mask.all() and text.mask.shape == (4, 1)


def test_a_name_goes_before_a_number():
    assert ClassEncoder(names=NAMES).tokenize(["7"]).ids.tolist() == [[2]]


def test_a_linear_layer_on_it_is_an_embedding_and_null_is_its_bias():
    text, layer = ClassEncoder(names=NAMES).encode(["dog"]), nn.Linear(4, 5)
    torch.testing.assert_close(layer(text.tokens)[0, 0], layer.weight[:, 1] + layer.bias)
    assert torch.equal(layer(text.null().tokens)[0, 0], layer.bias)


def test_ids_can_be_stored():
    encoder = ClassEncoder(names=NAMES)
    assert isinstance(encoder, TokenizingEncoder) and isinstance(encoder, TextEncoder)
    assert torch.equal(encoder.encode_ids(encoder.tokenize(["dog"])).tokens, encoder.encode(["dog"]).tokens)


@pytest.mark.parametrize("asked", ["goldfisch", "GOLDFISH"])
def test_an_unknown_class_is_one_sentence_with_those_that_are_alike(asked):
    with pytest.raises(ValueError, match=rf"no class '{asked}'; did you mean Goldfish\? give a number from 0 to 3, or"):
        ClassEncoder(names=NAMES).encode([asked])
    with pytest.raises(ValueError, match="no class '4'; give a number from 0 to 3, or one of the names tabby cat, dog"):
        ClassEncoder(names=NAMES).encode(["4"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": []}, "text_encoder.names has 0 classes"),
        ({"names": ["a", "b", "a"]}, "text_encoder.names has a twice"),
        ({"names": ["a", "b"], "dim": 3}, "text_encoder.dim is 3, but text_encoder.names has 2"),
    ],
)
def test_impossible_classes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClassEncoder(**arguments)


def test_names_that_are_left_to_the_data_are_none_yet():
    with pytest.raises(ValueError, match=r"text_encoder\.names is null, so no class is known; set it"):
        ClassEncoder(names=None, dim=0).encode(["dog"])


def test_no_captions_are_the_null_condition():
    encoder = NoEncoder()
    assert isinstance(encoder, TextEncoder) and not isinstance(encoder, TokenizingEncoder)
    text = encoder.encode(["a cat", ""])
    assert text.tokens.shape == (2, 1, 1) and torch.equal(text.tokens, text.null().tokens)
    assert text.mask is not None and text.mask.all()
