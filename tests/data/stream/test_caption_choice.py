"""Several captions of an image: one is drawn for each step, by its probability, and always the same one."""

import os
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from streaming import LocalDataset

from micro_diffusion.data.format.caption_formats import CaptionFeatures, CaptionIds
from micro_diffusion.data.format.metadata import LatentMetadata
from micro_diffusion.data.prepare.convert import convert
from micro_diffusion.data.prepare.description import DataFolder
from micro_diffusion.data.prepare.engine import Processes
from micro_diffusion.data.prepare.precompute import precompute
from micro_diffusion.data.prepare.preparation import Preparation
from micro_diffusion.data.sources.image_folder import ImageFolder
from micro_diffusion.data.stream.caption_choice import CaptionChoice
from micro_diffusion.data.stream.loader import build_loader
from micro_diffusion.data.stream.mixture import Part
from tests.data.prepare.test_precompute import Averaging
from tests.data.test_formats import CAPTION_FORMATS, Causal

COUNT = 40
FORMATS = [*CAPTION_FORMATS, CaptionIds()]


def texts(number: int) -> tuple[str, str]:
    """A short and a long caption of an image."""
    return f"{number}", f"{number} and more"


def make(folder, *, captions=2, count=COUNT, form=CaptionFeatures()):  # noqa: B008
    """Latents of images with captions of their own."""
    (folder / "source").mkdir(parents=True)
    lines = []
    for number in range(count):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(folder / "source" / f"{number}.png")
        shown = str(list(texts(number))).replace("'", '"')
        lines.append(f'{{"file_name": "{number}.png", "caption": {shown}}}\n')
    (folder / "source" / "metadata.jsonl").write_text("".join(lines))
    source = ImageFolder(path=str(folder / "source"), captions=captions)
    convert(source=source, out=folder / "images", preparation=Preparation(), engine=Processes(count=1))
    options = {"autoencoder": Averaging(), "text_encoder": Causal(), "caption_format": form, "sample": False}
    precompute(images=folder / "images", out=folder / "latents", resolutions=[8], **options, size_limit="2kb")
    return folder / "latents"


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    return make(tmp_path_factory.mktemp("data"))


def load(path, **changes):
    return build_loader(path=str(path), **{"resolution": 8, "batch_size": 4, "shuffle": True, "seed": 1, **changes})


def captions(batches) -> dict[str, str]:
    """The captions of an epoch, by key, in their order."""
    return {key: text for batch in batches for key, text in zip(batch["key"], batch["caption"], strict=True)}


def test_captions_are_drawn_by_their_probabilities():
    choice = CaptionChoice([0.05, 0.7, 0.25], captions_per_image=4, seed=0)
    drawn = [choice.draw(epoch, sample) for epoch in range(10) for sample in range(2000)]
    counted = Counter(drawn)
    assert [counted[i] / len(drawn) for i in range(4)] == pytest.approx([0.05, 0.7, 0.25, 0], abs=0.01)
    alike = CaptionChoice(None, captions_per_image=4, seed=0)
    counted = Counter(alike.draw(0, sample) for sample in range(8000))
    assert [counted[i] / 8000 for i in range(4)] == pytest.approx([0.25] * 4, abs=0.02)


def test_a_draw_follows_from_seed_epoch_and_sample_and_nothing_else():
    def draws(seed: int, epoch: int, samples) -> list[int]:
        choice = CaptionChoice([0.5, 0.5], captions_per_image=2, seed=seed)
        return [choice.draw(epoch, sample) for sample in samples]

    first = draws(0, 0, range(1000))
    assert draws(0, 0, reversed(range(1000))) == first[::-1]
    for other in (draws(0, 1, range(1000)), draws(1, 0, range(1000)), draws(0, 0, range(1000, 2000))):
        assert sum(a == b for a, b in zip(first, other, strict=True)) == pytest.approx(500, abs=60)


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        (
            [0.2, 0.3, 0.5],
            r"\[0\.2, 0\.3, 0\.5\], but the data hold 2 captions an image; set as many, or",
        ),
        ([0.7, 0.7], "set it to numbers from 0 to 1 that sum to 1"),
        ([1.5, -0.5], "set it to numbers from 0 to 1 that sum to 1"),
        ([], r"caption_probabilities is \[\]; set it to numbers"),
    ],
)
def test_probabilities_that_mean_nothing_are_refused(latents, probabilities, message):
    with pytest.raises(ValueError, match=f"for {latents}, .*{message}"):
        load(latents, caption_probabilities=probabilities)
    with pytest.raises(ValueError, match="caption_probabilities is set beside a mixture"):
        build_loader(
            mixture={"a": Part(path=str(latents))},
            caption_probabilities=[1],
            resolution=8,
            batch_size=4,
            shuffle=True,
        )


@pytest.mark.parametrize("form", FORMATS, ids=repr)
def test_a_batch_holds_the_caption_that_was_drawn(tmp_path, form):
    path = make(tmp_path, count=6, form=form)
    for place, probabilities in enumerate(([1], [0, 1])):
        for batch in load(path, caption_probabilities=probabilities):
            assert batch["caption"] == [texts(int(key.removesuffix(".png")))[place] for key in batch["key"]]
            tokens, mask, *_ = Causal().encode(batch["caption"])
            assert torch.equal(batch["caption_mask"], mask)
            if isinstance(form, CaptionIds):
                assert torch.equal(batch["caption_ids"], Causal().tokenize(batch["caption"]).ids)
                continue
            error = (batch["caption_tokens"] - tokens)[mask if not form.padded else torch.ones_like(mask)]
            assert error.abs().max() < (0.01 if form.dtype == "int8" else 1e-3)
            assert (batch["latents"][:, 0, 0, 0] * 127.5 + 127.5).round().tolist() == [
                int(key.removesuffix(".png")) for key in batch["key"]
            ]


def test_an_epoch_draws_both_and_the_next_one_others(latents):
    loader = load(latents, caption_probabilities=[0.3, 0.7])
    epochs = [captions(loader) for _ in range(3)]
    del loader
    for drawn in epochs:
        assert drawn.keys() == {f"{i}.png" for i in range(COUNT)}
        assert 4 <= sum("more" in text for text in drawn.values()) < COUNT
    assert epochs[0] != epochs[1] != epochs[2]
    again = load(latents, caption_probabilities=[0.3, 0.7], batch_size=8, workers=2)
    assert [captions(again) for _ in range(2)] == epochs[:2]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_epoch_has_the_captions_of_the_uninterrupted_one(latents, workers):
    loader = load(latents, workers=workers)
    captions(loader)
    second = captions(loader)
    del loader
    loader = load(latents, workers=workers)
    captions(loader)
    batches = iter(loader)
    begun = captions([next(batches) for _ in range(3)])
    state = loader.state_dict()
    del batches, loader
    resumed = load(latents, workers=workers)
    resumed.load_state_dict(state)
    assert list((begun | captions(resumed)).items()) == list(second.items())


def test_only_the_caption_that_was_drawn_is_read(latents, monkeypatch):
    read, preadv = [], os.preadv
    monkeypatch.setattr(os, "preadv", lambda *given: read.append(preadv(*given)) or read[-1])
    sizes = {}
    for name, probabilities in {"first": [1], "both": [0.5, 0.5], "second": [0, 1]}.items():
        read.clear()
        captions(load(latents, caption_probabilities=probabilities, verify=False))
        sizes[name] = sum(read)
    assert sizes["first"] < sizes["both"] < sizes["second"]
    assert sizes["second"] - sizes["first"] == COUNT * len(" and more")
    columns = DataFolder(latents, count=COUNT).describe()["bytes_per_sample"]
    unread = sum(size for name, size in columns.items() if name.startswith("further_"))
    assert sizes["first"] / COUNT == pytest.approx(sum(columns.values()) - unread)


def test_parts_of_a_mixture_draw_each_by_their_own(latents, tmp_path):
    single = make(tmp_path, captions=1, count=20)
    parts = {
        "two": Part(path=str(latents), caption_probabilities=[0, 1]),
        "one": Part(path=str(single)),
    }
    loader = build_loader(mixture=parts, resolution=8, batch_size=4, shuffle=True)
    long = Counter("more" in text for batch in loader for text in batch["caption"])
    assert long == {True: COUNT, False: 20}


def test_the_record_and_the_description_say_how_many_there_are(latents):
    assert LatentMetadata.read(latents).captions_per_image == 2
    for folder in (latents, latents.with_name("images")):
        found = DataFolder(folder, count=10).describe()
        assert found["captions_per_image"] == 2
        assert (found["caption_words"]["max"], found["caption_2_words"]["max"]) == (1, 3)
        assert found["captions"][:2] == list(texts(0))
    found = DataFolder(latents, count=10).describe()
    assert (found["caption_tokens"]["mean"], found["caption_2_tokens"]["mean"]) == (2, 4)


def test_a_caption_that_is_missing_is_replaced_and_counted(tmp_path, caplog):
    (tmp_path / "source").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "source" / "a.png")
    (tmp_path / "source" / "metadata.jsonl").write_text('{"file_name": "a.png", "caption": [null, "long"]}')
    source = ImageFolder(path=str(tmp_path / "source"), captions=2)
    convert(source=source, out=tmp_path / "images", preparation=Preparation(), engine=Processes(count=1))
    (row,) = (LocalDataset(str(tmp_path / "images"))[i] for i in range(1))
    assert (row["caption"], row["further_captions"]) == ("long", ["long"])
    assert "replaced 1: empty caption (listed in" in caplog.text and "left out" not in caplog.text
    assert '"empty caption, replaced by another one of the image": 1' in (
        tmp_path / "images" / "metadata.json"
    ).read_text(encoding="utf-8")
