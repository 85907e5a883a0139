"""The score of completed images: the true half is right, the erased one is not, and known pixels are compared."""

import torch

from micro_diffusion.evaluation.completion import completion_report


def test_the_true_half_is_right_and_an_empty_one_wrong():
    seen = []

    def true_half(captions, images, unknown):
        seen.append((captions, images, unknown))
        return images

    report, grid = completion_report(true_half, side=64, count=8, seed=0)
    assert report["completion"] == {"completed": 1.0, "true": 1.0}
    assert report["known_changed"] == 0
    assert report["statements"]["count"] == 1.0
    (captions, images, unknown) = seen[0]
    assert len(set(captions)) > 1
    assert (images.shape, unknown.shape) == ((8, 3, 64, 64), (8, 1, 64, 64))
    assert unknown.flatten(1).float().mean(dim=1).tolist() == [0.5] * 8
    assert len({tuple(one.flatten().tolist()) for one in unknown}) > 1  # several halves
    assert grid.height > 3 * 64

    empty, _ = completion_report(lambda c, x, u: torch.where(u, x[:, :, :1, :1], x), side=64, count=8, seed=0)
    assert empty["completion"]["completed"] < 0.5
    assert empty["known_changed"] == 0
    worse, _ = completion_report(lambda c, x, u: x - torch.where(u, 0, 3).to(x.dtype), side=64, count=4, seed=0)
    assert worse["known_changed"] >= 3
