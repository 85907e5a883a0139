"""The pipeline for Python: what it returns, takes, tells, and refuses."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from micro_diffusion import Between, Pipeline
from micro_diffusion.generation.frames import way_between
from tests.run_folder import CONFIG, make_run

PROMPT = "a large red circle on a white background"


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return Pipeline.from_run(make_run(tmp_path_factory.mktemp("runs") / "first"), device="cpu", precision="fp32")


def test_images_of_pillow_with_their_recipe(pipe: Pipeline, tmp_path: Path):
    (image,) = pipe(PROMPT, seed=0, steps=2)
    assert (image.size, image.mode) == ((16, 16), "RGB")
    recipe = image.info["recipe"]
    assert (recipe["prompts"], recipe["seeds"], recipe["steps"]) == ([PROMPT], [[0, 0]], 2)
    image.save(tmp_path / "a.png")
    assert len(pipe()) == len(CONFIG["prompts"]["captions"])


def test_a_size_may_be_wide(pipe: Pipeline):
    with pytest.warns(UserWarning, match="positions are stretched"):
        assert pipe(PROMPT, resolution=(16, 32), steps=1)[0].size == (32, 16)


def test_a_generator_takes_the_place_of_a_seed(pipe: Pipeline):
    first, second = (pipe(PROMPT, generator=torch.Generator().manual_seed(5), steps=2)[0] for _ in range(2))
    assert first.tobytes() == second.tobytes() != pipe(PROMPT, seed=5, steps=2)[0].tobytes()
    assert "recipe" not in first.info
    with pytest.raises(ValueError, match="both a seed and a generator"):
        pipe(PROMPT, seed=0, generator=torch.Generator())


def test_previews_come_after_every_call_and_end_at_the_image(pipe: Pipeline):
    seen = []
    (image,) = pipe(PROMPT, steps=3, on_preview=seen.append)
    assert [(preview.step, preview.steps) for preview in seen] == [(1, 3), (2, 3), (2, 3), (3, 3), (3, 3)]
    assert seen[-1].images()[0].tobytes() == image.tobytes()
    assert image.tobytes() == pipe(PROMPT, steps=3)[0].tobytes()


def test_the_ends_of_a_way_are_the_images_themselves(pipe: Pipeline):
    way = [Between(PROMPT, "a cat", share) for share in (0.0, 0.5, 1.0)]
    first, middle, last = pipe(way, seed=[0], steps=2)
    assert first.tobytes() == pipe(PROMPT, seed=[0], steps=2)[0].tobytes()
    assert last.tobytes() == pipe("a cat", seed=[0], steps=2)[0].tobytes()
    assert middle.tobytes() not in (first.tobytes(), last.tobytes())


def test_a_way_visits_every_stop_once():
    prompts, seeds = way_between(["a", "b", "c"], [7], 3)
    assert prompts == ["a", Between("a", "b", 0.5), "b", Between("b", "c", 0.5), "c"]
    assert seeds == [7] * 5
    prompts, seeds = way_between(["a", "b"], [0, 1], 3)
    assert seeds == [0, Between(0, 1, 0.5), 1]


def test_noise_between_two_seeds_keeps_its_variance(pipe: Pipeline):
    from micro_diffusion.sampling.start import sources, unit_noise

    noise = unit_noise(sources([Between(0, 1, 0.5)], 0, 1)[0], (4, 64, 64))
    assert noise.std().item() == pytest.approx(1, abs=0.02)


def test_an_image_that_noise_hardly_covers_stays(pipe: Pipeline):
    image = Image.new("RGB", (40, 20), (10, 200, 30))
    (changed,) = pipe(PROMPT, image=image, strength=0.01, steps=50)
    assert max(abs(a - b) for a, b in zip(changed.tobytes(), bytes((10, 200, 30)) * 256, strict=True)) < 60


def test_a_wrong_device_and_run_are_sentences(tmp_path: Path):
    with pytest.raises(ValueError, match="device 'toaster' cannot be used"):
        Pipeline.from_run("demo", device="toaster")
    with pytest.raises(FileNotFoundError, match="there is no run folder nothing"):
        Pipeline.from_run("nothing")
    (tmp_path / "cascade.yaml").write_text("stages: [demo, demo]")
    with pytest.raises(ValueError, match="is a cascade; `micro-diffusion generate .*` opens it"):
        Pipeline.from_run(tmp_path)


def test_another_sampler_needs_no_loading(pipe: Pipeline):
    changed = pipe.but_with(sampler="euler", levels="exponential")
    opened = Pipeline.from_run(pipe.run.folder, device="cpu", precision="fp32", sampler="euler", levels="exponential")
    assert changed.run is pipe.run
    assert (
        changed(PROMPT, seed=1)[0].tobytes() == opened(PROMPT, seed=1)[0].tobytes() != pipe(PROMPT, seed=1)[0].tobytes()
    )
    assert changed.but_with(sampler="heun").recipe(PROMPT).levels == "exponential"
