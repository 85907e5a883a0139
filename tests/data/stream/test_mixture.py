"""Several folders as one data set: in the shares that were asked for, and only where they fit together."""

from collections import Counter

import pytest

from micro_diffusion.data.stream.loader import build_loader
from micro_diffusion.data.stream.mixture import Part
from tests.data.stream.test_loader import make_latents, numbers


@pytest.fixture
def folders(tmp_path):
    return make_latents(tmp_path / "small", 20), make_latents(tmp_path / "large", 60, start=100)


def mix(folders, *weights, **changes):
    parts = {folder.name: Part(path=str(folder), **weight) for folder, weight in zip(folders, weights, strict=True)}
    options = {"resolution": 8, "batch_size": 8, "shuffle": True, "seed": 0, **changes}
    return build_loader(mixture=parts, **options)


@pytest.mark.parametrize("workers", [0, 2])
def test_without_weights_every_sample_comes_once(folders, workers):
    assert sorted(numbers(mix(folders, {}, {}, workers=workers))) == [*range(20), *range(100, 160)]


def test_proportions_hold_in_every_epoch(folders):
    loader = mix(folders, {"proportion": 3}, {"proportion": 1})
    for _ in range(2):
        taken = Counter(number >= 100 for number in numbers(loader))
        assert taken == {False: 60, True: 20}


def test_repeats_count_from_each_part(folders):
    taken = Counter(numbers(mix(folders, {"repeat": 2}, {"repeat": 0.5})))
    assert {taken[number] for number in range(20)} == {2}
    assert sum(count for number, count in taken.items() if number >= 100) == 30
    assert max(taken[number] for number in range(100, 160)) == 1


def test_a_mixture_resumes_where_it_stopped(folders):
    weights = {"proportion": 3}, {"proportion": 1}
    whole = numbers(mix(folders, *weights))
    loader = mix(folders, *weights)
    batches = iter(loader)
    begun = numbers([next(batches), next(batches)])
    resumed = mix(folders, *weights)
    resumed.load_state_dict(loader.state_dict())
    assert begun + numbers(resumed) == whole


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_encoder": "other"}, "has text_encoder t, but .*large has other; precompute both in the same way"),
        ({"resolutions": [16]}, "latents at 16 px, not at 8"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(tmp_path, changes, message):
    folders = make_latents(tmp_path / "small"), make_latents(tmp_path / "large", **changes)
    with pytest.raises(ValueError, match=message):
        mix(folders, {}, {})


def test_weights_that_mean_nothing_are_refused(folders):
    with pytest.raises(ValueError, match="large has no proportion, but other parts of the mixture have"):
        mix(folders, {"proportion": 1}, {"repeat": 1})
    with pytest.raises(ValueError, match="both a proportion and a repeat"):
        Part(path="a", proportion=1, repeat=1)
    small = folders[0]
    for again in (small, small.parent / "large" / ".." / small.name):
        parts = {"a": Part(path=str(small)), "b": Part(path=str(again))}
        with pytest.raises(ValueError, match=f"{small} is in the mixture twice"):
            build_loader(mixture=parts, resolution=8, batch_size=8, shuffle=False)
    with pytest.raises(ValueError, match="both a mixture and elsewhere are set"):
        build_loader(
            path="elsewhere", mixture={"a": Part(path=str(folders[0]))}, resolution=8, batch_size=8, shuffle=False
        )
    with pytest.raises(ValueError, match="there are no data; set path"):
        build_loader(resolution=8, batch_size=8, shuffle=False)
