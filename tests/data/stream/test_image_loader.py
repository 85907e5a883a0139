import pytest
import torch

from micro_diffusion.data.prepare.convert import convert
from micro_diffusion.data.prepare.engine import Processes
from micro_diffusion.data.prepare.preparation import Preparation
from micro_diffusion.data.sources.shapes import Shapes
from micro_diffusion.data.sources.source import Rejected
from micro_diffusion.data.stream.image_loader import build_image_loader, collate


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders of 10 and 6 images of different sizes."""
    paths = [tmp_path_factory.mktemp("images") / name for name in ("first", "second")]
    for path, count, resolution in zip(paths, (10, 6), (16, 24), strict=True):
        source = Shapes(seed=count, count=count, resolution=resolution)
        convert(source=source, out=path, preparation=Preparation(), engine=Processes(count=1))
    return [str(path) for path in paths]


def load(folders, **changes):
    arguments = {"paths": folders, "resolution": 16, "batch_size": 4, "shuffle": False, **changes}
    return build_image_loader(**arguments)


def test_every_image_of_every_folder_comes_once(folders):
    batches = list(load(folders))
    captions = [caption for batch in batches for caption in batch["caption"]]
    assert len(captions) == 16
    images = torch.cat([batch["images"] for batch in batches])
    assert images.shape == (16, 3, 16, 16) and images.dtype == torch.uint8
    assert len({image.numpy().tobytes() for image in images}) == 16


def test_the_order_follows_seed_and_epoch(folders):
    def order(loader, epoch):
        loader.sampler.set_epoch(epoch)
        return [caption for batch in loader for caption in batch["caption"]]

    first, again, other = (load(folders, shuffle=True, seed=seed) for seed in (0, 0, 1))
    assert order(first, 0) == order(again, 0)
    assert order(first, 0) != order(first, 1)
    assert order(first, 0) != order(other, 0)


def test_shuffled_epochs_have_full_batches_only(folders):
    batches = list(load(folders, shuffle=True, batch_size=5))
    assert [len(batch["images"]) for batch in batches] == [5, 5, 5]


def test_ranks_share_a_batch(folders, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    seen = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        batches = list(load(folders))
        assert [len(batch["images"]) for batch in batches] == [2, 2, 2, 2]
        seen += [image.numpy().tobytes() for batch in batches for image in batch["images"]]
    assert len(set(seen)) == 16
    with pytest.raises(ValueError, match="batch_size 3 does not divide among 2 ranks; make it a multiple of 2"):
        load(folders, batch_size=3)


def test_a_missing_folder_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="convert.py"):
        load([str(tmp_path / "nothing")])


def test_too_few_images(folders):
    with pytest.raises(ValueError, match="hold 16 images; set batch_size to at most that"):
        load(folders, shuffle=True, batch_size=32)


def test_an_unreadable_image_is_an_error():
    with pytest.raises(ValueError, match="image cat cannot be used \\(unreadable image\\); convert"):
        collate([Rejected("cat", "unreadable image")])
