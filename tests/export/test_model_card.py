"""The model card: fields that the hub reads, and nothing of the machine that trained."""

import yaml

from micro_diffusion.export.model_card import model_card
from tests.run_folder import CONFIG

SETTINGS = {"name": "m", "weights": "ema", "parameters": 1234567, "scores": None, "notes": None, "license": None}


def card(config=CONFIG, **changes) -> str:
    return model_card(config, **{**SETTINGS, "libraries": {"torch", "os"}, **changes})


def fields(text: str) -> dict:
    return yaml.safe_load(text.split("---")[1])


def test_fields_of_the_hub():
    assert fields(card())["license"] == "unknown"
    assert fields(card(license="mit"))["license"] == "mit"
    assert fields(card())["library_name"] == "diffusers"
    assert fields(card())["pipeline_tag"] == "text-to-image"
    without_text = {**CONFIG, "text_encoder": {"_target_": "micro_diffusion.text.none.NoEncoder"}}
    assert fields(card(without_text))["pipeline_tag"] == "unconditional-image-generation"


def test_scores_without_times_and_settings():
    scores = {"composition": {"two": 0.5}, "seconds": {"judge": 0.25}, "settings": {"scale": 3.5}, "images": 300}
    text = card(scores=scores)
    assert "| composition.two | 0.5 |" in text
    assert "0.25" not in text and "3.5" not in text and "300" not in text


def test_recipe_data_and_libraries():
    training = {
        "seed": 18,
        "model": {"train_mask_ratio": 0.75},
        "trainer": {"max_duration": "9ba"},
        "train_loader": {"path": "/home/somebody/data/photos", "batch_size": 32},
    }
    text = card({**CONFIG, **training}, libraries={"torch", "open_clip"})
    assert "Trained on photos." in text and "somebody" not in text
    assert "train_mask_ratio: 0.75" in text and "max_duration: 9ba" in text and "batch_size: 32" in text
    assert "It needs diffusers, transformers and torch, open_clip_torch." in text


def test_headings_of_the_runs_own_notes_go_below_those_of_the_card():
    text = card(notes="# Mine\n\n```bash\n# a comment\n```\n")
    assert "\n### Mine\n" in text and "\n# a comment\n" in text


def test_encoders_of_the_hub_are_linked():
    encoder = {"_target_": "micro_diffusion.text.open_clip.OpenClipTextEncoder", "model": "hf-hub:apple/DFN5B"}
    assert "(https://huggingface.co/apple/DFN5B): see there" in card({**CONFIG, "text_encoder": encoder})
