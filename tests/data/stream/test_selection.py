"""Samples that a training leaves out: by their scores, and by lists of keys."""

import pytest

from micro_diffusion.data.stream.loader import build_loader
from micro_diffusion.data.stream.mixture import Part
from tests.data.stream.test_loader import COUNT, load, numbers


def test_samples_stay_whose_scores_reach_the_minimum(folder, tmp_path, caplog):
    rows = [f"{i},{i / 10},{'' if i == 40 else 50 - i}" for i in range(COUNT - 2)]  # two samples without a row
    (tmp_path / "scores.csv").write_text("\n".join(["key,aesthetic,sharpness", *rows]))
    options = {"scores": str(tmp_path / "scores.csv"), "drop_last": False, "shuffle": True}
    loader = load(folder, minimum_scores={"aesthetic": 3.0}, **options)
    assert sorted(numbers(loader)) == list(range(30, COUNT - 2))
    assert "2 of 50 samples have no scores" in caplog.text
    identity = loader.dataset.identity
    del loader
    loader = load(folder, minimum_scores={"aesthetic": 3.0, "sharpness": 5}, **options)
    assert sorted(numbers(loader)) == [i for i in range(30, 46) if i != 40]
    assert loader.dataset.identity != identity
    del loader
    twice = {"a": Part(path=str(folder), repeat=2)}
    options |= {"resolution": 8, "batch_size": 8, "minimum_scores": {"aesthetic": 3.0}}
    loader = build_loader(mixture=twice, **options)
    assert sorted(numbers(loader)) == sorted(2 * list(range(30, COUNT - 2)))
    assert len(loader) == 5
    del loader


def test_scores_in_parquet_files(folder, tmp_path):
    pytest.importorskip("pyarrow")
    from pyarrow import parquet, table

    for name, start in (("a", 0), ("b", 25)):
        keys = list(range(start, start + 25))
        parquet.write_table(table({"key": keys, "score": [float(k) for k in keys]}), tmp_path / f"{name}.parquet")
    loader = load(folder, scores=str(tmp_path), minimum_scores={"score": 20})
    assert sorted(numbers(loader)) == list(range(20, COUNT))
    del loader


@pytest.mark.parametrize(
    ("text", "minimum", "said"),
    [
        ("key,a\n1,2\n", None, "set both, as in scores=scores.csv"),
        ("key,a\n1,2\n", {"b": 1}, "has no column b; it has key, a"),
        ("name,a\n1,2\n", {"a": 1}, "has no column key"),
        ("key,a\n1,good\n", {"a": 1}, "has 'good' in the column a; write numbers"),
        ("key,a\nx,2\n", {"a": 1}, "the data have none of the 1 keys"),
        ("key,a\n1,2\n", {"a": 3}, "leaves out every sample"),
        ("key,a\n", {"a": 3}, "has no rows"),
    ],
)
def test_scores_that_are_of_no_use_are_errors(folder, tmp_path, text, minimum, said):
    (tmp_path / "scores.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        load(folder, scores=str(tmp_path / "scores.csv"), minimum_scores=minimum)
    with pytest.raises(FileNotFoundError, match="set scores to a table"):
        load(folder, scores=str(tmp_path / "none.csv"), minimum_scores={"a": 1})


@pytest.mark.parametrize("shuffle", [False, True])
def test_samples_of_a_list_are_left_out_also_after_a_resumption(folder, tmp_path, shuffle):
    listed = [0, 3, *range(10, 19), COUNT - 1]  # a shard's first, all of another, and the last of all
    (tmp_path / "bad.txt").write_text("\n".join(map(str, listed)) + "\n\nunknown\n")
    options = {"exclude": str(tmp_path / "bad.txt"), "shuffle": shuffle, "drop_last": False}
    loader = load(folder, **options)
    first, second = numbers(loader), numbers(loader)
    assert sorted(first) == sorted(second) == sorted(set(range(COUNT)) - set(listed))
    assert (first != second) == shuffle
    del loader
    interrupted = load(folder, **options)
    batches = iter(interrupted)
    begun = numbers(next(batches) for _ in range(2))
    state = interrupted.state_dict()
    del batches, interrupted
    resumed = load(folder, **options)
    resumed.load_state_dict(state)
    assert begun + numbers(resumed) == first


def test_lists_of_keys_that_leave_out_nothing_or_cannot_are_errors(folder, tmp_path):
    path = tmp_path / "keys.txt"
    with pytest.raises(FileNotFoundError, match="set exclude to a list of keys, one a line"):
        load(folder, exclude=str(path))
    for text, said in (("\n", "names no samples"), ("x\ny", "have none of the 2 keys"), (None, "every sample")):
        path.write_text("\n".join(map(str, range(COUNT))) if text is None else text)
        with pytest.raises(ValueError, match=said):
            load(folder, exclude=str(path))
    with pytest.raises(ValueError, match="exclude needs samples that come equally often"):
        build_loader(
            mixture={"a": Part(path=str(folder), repeat=1.5)},
            resolution=8,
            batch_size=8,
            shuffle=False,
            exclude=str(path),
        )
