"""Feature networks: what distances with them rank, where their files belong, and what other libraries compute."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageFilter
from torchmetrics.functional.multimodal import clip_score as clip_score_of_torchmetrics
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer, Dinov2Config
from transformers import Dinov2Model as Dinov2

from micro_diffusion.data.image.transforms import to_tensor
from micro_diffusion.data.sources.shape_scenes import render, scene
from micro_diffusion.evaluation.distances import clip_score, frechet_distance, moments
from micro_diffusion.evaluation.features import RandomConvolutions, open_network


def scenes(count: int, seed: int = 0) -> list[Image.Image]:
    drawn = [scene(seed, index, pairs=0.5, held_out="include") for index in range(count)]
    return [Image.fromarray(render(one, 32)) for one in drawn]


def tensor(images: list[Image.Image]) -> torch.Tensor:
    return torch.stack([to_tensor(image) for image in images])


def tiny_clip(folder: Path) -> Path:
    """A folder with a CLIP of random weights, as transformers lays one out."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **small,
            "vocab_size": len(words),
            "max_position_embeddings": 16,
            "bos_token_id": len(words) - 2,
            "eos_token_id": len(words) - 1,
        },
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    image = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(image, tokenizer).save_pretrained(folder)
    return folder


def test_rising_blur_and_noise_rise_and_real_against_real_is_near_0():
    network = RandomConvolutions()
    real, others = scenes(300), scenes(300, seed=1)
    reference = moments(network(tensor(real)))

    def distance(images: list[Image.Image]) -> float:
        return frechet_distance(moments(network(tensor(images))), reference)

    rising = [distance([i.filter(ImageFilter.GaussianBlur(r)) for i in others]) for r in (0, 0.5, 1, 2, 4)]
    assert rising == sorted(rising)
    noise = torch.randint(0, 256, (300, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert frechet_distance(moments(network(noise)), reference) > 3 * rising[-1]
    assert distance(real) == pytest.approx(0, abs=1e-6)
    assert rising[0] < 0.2 * rising[-1]


def test_random_features_are_the_same_for_the_same_seed():
    images = tensor(scenes(2))
    assert torch.equal(RandomConvolutions()(images), RandomConvolutions()(images))
    assert RandomConvolutions().identity != RandomConvolutions(seed=1).identity


@pytest.mark.parametrize(
    ("name", "missing"),
    [("inception", "no weights-inception-2015"), ("dinov2", "no config.json"), ("clip", "neither a config.json nor")],
)
def test_a_missing_network_says_which_file_belongs_where(name: str, missing: str, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=missing) as raised:
        open_network(name, folder=tmp_path)
    assert str(tmp_path) in str(raised.value)
    assert "--networks" in str(raised.value)


def test_an_unknown_network_lists_those_that_exist():
    with pytest.raises(ValueError, match="no feature network 'vgg'; choose one of inception, dinov2, clip"):
        open_network("vgg", folder=".")


def test_inception_without_torch_fidelity_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "pt_inception-2015-12-05-6726825d.pth").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ModuleNotFoundError, match="pip install torch-fidelity"):
        open_network("inception", folder=tmp_path)


def test_clip_scores_like_torchmetrics(tmp_path: Path):
    folder = tiny_clip(tmp_path / "clip")
    network = open_network("clip", folder=tmp_path)
    images, captions = tensor(scenes(4)), ["a red square", "a star", "two circles", "a blue one"]
    ours = network(images)
    texts = network.embed_captions(captions)
    assert ours.shape == texts.shape == (4, 12)

    def parts():
        return CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)

    expected = float(clip_score_of_torchmetrics(list(images), captions, model_name_or_path=parts))
    assert clip_score(ours, texts) == pytest.approx(expected, rel=1e-4, abs=1e-3)
    assert network.embed_captions(["a " * 99]).shape == (1, 12)


def test_dinov2_gives_the_class_token_and_refuses_another_model(tmp_path: Path):
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2(config).save_pretrained(tmp_path / "dinov2")
    network = open_network("dinov2", folder=tmp_path)
    features = network(tensor(scenes(3)))
    assert features.shape == (3, 16)
    assert not torch.allclose(features[0], features[1])
    (tmp_path / "dinov2").rename(tmp_path / "clip")
    with pytest.raises(ValueError, match="holds a model of type dinov2"):
        open_network("clip", folder=tmp_path)
