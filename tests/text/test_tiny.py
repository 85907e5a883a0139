"""The tiny text encoder: deterministic, order-aware, of unit variance, and honest about cuts."""

from __future__ import annotations

import pytest
import torch

from micro_diffusion.text.encoder import TextEncoder
from micro_diffusion.text.tiny import TinyTextEncoder, word_signs


def test_is_a_text_encoder():
    assert isinstance(TinyTextEncoder(), TextEncoder)


def test_features_never_change():
    """Features are stored beside latents, so a word's vector must be the same for ever."""
    assert word_signs("red", 8).tolist() == [-1, -1, -1, 1, -1, -1, 1, -1]


def test_padding_is_zero_and_mask_ends_with_end_of_text():
    text = TinyTextEncoder(max_length=6).encode(["a red circle", ""])
    assert text.mask is not None
    assert text.mask.sum(dim=1).tolist() == [4, 1]
    assert text.tokens[~text.mask].abs().sum() == 0
    assert (text.tokens[text.mask].abs().sum(dim=1) > 0).all()


def test_case_and_punctuation_do_not_matter_but_order_does():
    encoder = TinyTextEncoder()
    plain, shouted, swapped = encoder.encode(["a red circle", "A RED, circle!", "a circle red"]).tokens
    assert torch.equal(plain, shouted)
    assert not torch.allclose(plain, swapped)


def test_a_token_knows_its_two_predecessors():
    tokens = TinyTextEncoder().encode(["small red circle here", "large red circle here"]).tokens
    differs = (tokens[0] - tokens[1]).abs().sum(dim=1) > 0
    assert differs[:5].tolist() == [True, True, True, False, False]


def test_a_window_of_six_words_binds_a_relation_to_both_objects():
    left, right = (f"a small red star to the {side} of a large blue circle" for side in ("left", "right"))
    tokens = TinyTextEncoder(window=6).encode([left, right]).tokens
    differs = (tokens[0] - tokens[1]).abs().sum(dim=1) > 0
    words = [*left.split(), "<end>"]
    assert [word for word, told in zip(words, differs.tolist(), strict=False) if told] == [
        "left", "of", "a", "large", "blue", "circle",
    ]  # fmt: skip
    swapped = TinyTextEncoder(window=6).encode(["a small blue circle to the left of a large red star"]).tokens
    assert not torch.equal(tokens[0, 6], swapped[0, 6])


@pytest.mark.parametrize("window", [1, 3, 6])
def test_entries_have_unit_variance(window):
    text = TinyTextEncoder(window=window).encode([f"word{i} another{i} third{i}" for i in range(200)])
    assert text.tokens[text.mask].square().mean().item() == pytest.approx(1, abs=0.05)


def test_a_long_caption_is_cut_with_a_warning_naming_the_words():
    encoder = TinyTextEncoder(max_length=3)
    with pytest.warns(UserWarning, match="'circle here'"):
        text = encoder.encode(["a red circle here"])
    assert torch.equal(text.tokens, encoder.encode(["a red"]).tokens)


def test_a_width_that_is_no_multiple_of_the_window_is_refused():
    with pytest.raises(ValueError, match="is 100; set it to a positive multiple of window=3"):
        TinyTextEncoder(dim=100)


def test_encoders_of_other_windows_have_other_names():
    """Data keep the name; those of three words had it before there were other windows."""
    assert [TinyTextEncoder(window=window).name for window in (3, 6)] == ["tiny-192", "tiny-192-6"]


def test_emoji_and_symbols_are_words_and_nothing_else_has_changed():
    encoder = TinyTextEncoder()
    assert encoder._words("a 🦊🏽 at 20 °C, “fine” – €5 + x_y") == [
        "a",
        "🦊",
        "🏽",
        "at",
        "20",
        "°",
        "c",
        "fine",
        "€",
        "5",
        "x",
        "y",
    ]
    assert encoder._words("Ünïcode 狐 и 2 words!") == ["ünïcode", "狐", "и", "2", "words"]
    fox, fish = encoder.encode(["🦊", "🐟"]).tokens
    assert not torch.equal(fox, fish)
