"""CLIP's pooled feature from open_clip and transformers, on small random weights that the test makes itself."""

from __future__ import annotations

import json
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from micro_diffusion.text.encoder import TextEncoder
from micro_diffusion.text.pooled_clip import PooledOpenClip, PooledTransformersClip
from tests.text.test_open_clip import CONFIG

CAPTIONS = ["a large red circle", "", "two"]
VOCABULARY = ["a", "a</w>", "t", "w", "o", "o</w>", "tw", "two</w>", "<|startoftext|>", "<|endoftext|>"]


@pytest.fixture(scope="module")
def open_clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    state = open_clip.CLIP(**CONFIG).state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {}}))
    return folder


@pytest.fixture(scope="module")
def transformers_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip_hf")
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(VOCABULARY)}))
    (folder / "merges.txt").write_text("#version: 0.2\nt w\ntw o</w>\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), unk_token="<|endoftext|>").save_pretrained(
        folder
    )
    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2}
    config = CLIPTextConfig(
        vocab_size=len(VOCABULARY), num_attention_heads=3, projection_dim=16, max_position_embeddings=8,
        eos_token_id=9, bos_token_id=8, pad_token_id=9, **shape,
    )  # fmt: skip
    CLIPTextModelWithProjection(config).save_pretrained(folder)
    return folder


def test_open_clip_gives_its_text_embedding_as_one_token(open_clip_folder):
    encoder = PooledOpenClip(model=str(open_clip_folder), dim=16)
    clip: Any = open_clip.create_model(f"local-dir:{open_clip_folder}").eval()
    with torch.no_grad():
        expected = clip.encode_text(open_clip.get_tokenizer(f"local-dir:{open_clip_folder}")(CAPTIONS))
    text = encoder.encode(CAPTIONS)
    assert isinstance(encoder, TextEncoder) and encoder.max_length == 1
    torch.testing.assert_close(text.tokens[:, 0], expected, rtol=1e-4, atol=1e-5)
    assert text.mask is not None and text.mask.shape == (3, 1) and text.mask.all()
    assert not torch.allclose(expected.norm(dim=1), torch.ones(3), atol=0.01)  # it is not normalised


def test_transformers_gives_text_embeds_as_one_token(transformers_folder):
    encoder = PooledTransformersClip(model=str(transformers_folder), dim=16)
    model: Any = CLIPTextModelWithProjection.from_pretrained(transformers_folder).eval()
    ids = torch.tensor([[8, 7, 1, 9, 9, 9, 9, 9]])  # two a
    with torch.no_grad():
        expected = model(input_ids=ids).text_embeds
    text = encoder.encode(["two a"])
    assert isinstance(encoder, TextEncoder) and encoder.max_length == 1
    torch.testing.assert_close(text.tokens[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_a_long_caption_is_cut_with_a_warning_naming_the_words(transformers_folder, open_clip_folder):
    with pytest.warns(UserWarning, match="'two two'"):
        PooledTransformersClip(model=str(transformers_folder)).encode(["a a a a a a two two"])
    with pytest.warns(UserWarning, match="'two two'"):
        PooledOpenClip(model=str(open_clip_folder)).encode([" ".join(["a"] * 10 + ["two", "two"])])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_features_are_float32(transformers_folder, dtype):
    assert (
        PooledTransformersClip(model=str(transformers_folder), dtype=dtype).encode(["a"]).tokens.dtype == torch.float32
    )


def test_the_other_form_of_the_same_weights_is_another_encoder(open_clip_folder):
    assert PooledOpenClip(model=str(open_clip_folder)).provenance["pooled"] is True


def test_stated_width_is_checked(open_clip_folder, transformers_folder):
    with pytest.raises(ValueError, match="text_encoder.dim is 768, but .*, pooled has 16; set text_encoder.dim=16"):
        PooledOpenClip(model=str(open_clip_folder), dim=768)
    with pytest.raises(ValueError, match="text_encoder.dim is 768, but .*, pooled has 16"):
        PooledTransformersClip(model=str(transformers_folder), dim=768)


def test_missing_weights_give_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="no CLIP text model to load from .*; connect") as error:
        PooledTransformersClip(model=str(tmp_path))
    assert "\n" not in str(error.value)
