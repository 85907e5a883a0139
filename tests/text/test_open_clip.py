"""The open_clip text tower, on small weights that the test makes itself."""

from __future__ import annotations

import json
import warnings
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from micro_diffusion.text.encoder import TextEncoder
from micro_diffusion.text.open_clip import OpenClipTextEncoder

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 24, "heads": 3, "layers": 2},
}
CAPTIONS = ["a large red circle", "", "two"]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A CLIP model of random weights in open_clip's folder format, in the key layout that releases use."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    state = open_clip.CLIP(**CONFIG).state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {}}))
    return folder


@pytest.fixture(scope="module")
def encoder(clip_folder):
    return OpenClipTextEncoder(model=str(clip_folder), dim=24, max_length=12)


def test_is_a_text_encoder(encoder):
    assert isinstance(encoder, TextEncoder)


def test_end_of_text_feature_projects_to_the_clip_embedding(encoder, clip_folder):
    """The only token that CLIP itself uses is the last true one of the mask, after the final norm."""
    clip: Any = open_clip.create_model(f"local-dir:{clip_folder}").eval()
    with torch.no_grad():
        expected = clip.encode_text(open_clip.get_tokenizer(f"local-dir:{clip_folder}")(CAPTIONS))
    text = encoder.encode(CAPTIONS)
    last = text.mask.sum(dim=1) - 1
    actual = text.tokens[torch.arange(3), last] @ encoder.tower.text_projection
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_a_caption_does_not_see_its_neighbours(encoder):
    together = encoder.encode(CAPTIONS)
    for row, caption in enumerate(CAPTIONS):
        torch.testing.assert_close(together.tokens[row], encoder.encode([caption]).tokens[0], rtol=1e-4, atol=1e-5)


def test_mask_counts_start_words_and_end(encoder):
    assert encoder.encode(CAPTIONS).mask.sum(dim=1).tolist() == [6, 2, 3]


def test_only_the_text_tower_is_kept(encoder):
    names = {name for name, _ in encoder.tower.named_parameters()}
    assert not any("visual" in name for name in names)
    assert not any(parameter.requires_grad for parameter in encoder.tower.parameters())


def test_features_are_float32_in_any_weight_dtype(encoder, clip_folder):
    low = OpenClipTextEncoder(model=str(clip_folder), dtype="bfloat16")
    assert next(low.tower.parameters()).dtype == torch.bfloat16
    exact, rounded = encoder.encode(CAPTIONS).tokens, low.encode(CAPTIONS).tokens
    assert rounded.dtype == torch.float32
    assert (exact - rounded).abs().mean() < 0.02 * exact.abs().mean()


def test_a_weight_file_of_a_known_architecture(encoder, clip_folder, tmp_path):
    (tmp_path / "test-small.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(tmp_path)
    file = OpenClipTextEncoder(model="test-small", weights=str(clip_folder / "open_clip_model.safetensors"))
    assert torch.equal(file.encode(CAPTIONS).tokens, encoder.encode(CAPTIONS).tokens)


def test_a_long_caption_is_cut_with_a_warning_naming_the_words(encoder):
    words = [f"number{i}" for i in range(4)]  # two tokens each: a word and a digit
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.encode([" ".join(words)])
    with pytest.warns(UserWarning, match="'red circle'"):
        mask = encoder.encode([" ".join([*words, "in", "a", "red", "circle"])]).mask
    assert mask.all()


def test_stated_width_is_checked(clip_folder):
    with pytest.raises(ValueError, match="text_encoder.dim is 1024, but .* has 24; set text_encoder.dim=24"):
        OpenClipTextEncoder(model=str(clip_folder), dim=1024)


def test_missing_folder_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="no open_clip_config.json in .*; set text_encoder.model"):
        OpenClipTextEncoder(model=str(tmp_path))


def test_missing_weights_are_not_replaced_by_random_ones(clip_folder, tmp_path):
    (tmp_path / "open_clip_config.json").write_text((clip_folder / "open_clip_config.json").read_text())
    with pytest.raises(FileNotFoundError, match="no text encoder to load"):
        OpenClipTextEncoder(model=str(tmp_path))


def test_no_network_gives_one_sentence(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host\nand much more")

    monkeypatch.setattr("open_clip.factory.download_pretrained_from_hf", offline)
    with pytest.raises(FileNotFoundError, match="connect to the network once") as error:
        OpenClipTextEncoder(model="hf-hub:nobody/nothing")
    assert "\n" not in str(error.value)
