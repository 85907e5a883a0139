"""The judge of classes: what it learns, what it says, and the distance between its features."""

import torch

from micro_diffusion.evaluation.class_judge import (
    LabelledImages,
    accuracies,
    train_judge,
    verdicts,
)


def stripes(count: int, seed: int) -> LabelledImages:
    """Class 0 is stripes across, class 1 stripes down, of any colour and phase."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(2, (count,), generator=generator)
    line = torch.arange(16)
    images = []
    for number in classes:
        phase = int(torch.randint(4, (), generator=generator))
        wave = ((line + phase) % 4 < 2).float().expand(16, 16)
        colour = torch.rand(3, 1, 1, generator=generator)
        images.append(colour * (wave if number else wave.T))
    return LabelledImages((torch.stack(images) * 255).to(torch.uint8), classes)


def test_it_learns_what_tells_the_classes_apart_and_is_the_same_again():
    one, two = (train_judge(stripes(64, seed=0), classes=2, steps=30, batch_size=16) for _ in range(2))
    held_out = stripes(40, seed=1)
    found = verdicts(one, held_out.images, batch_size=16)
    assert (found.classes == held_out.classes).float().mean() > 0.9
    assert torch.equal(found.features, verdicts(two, held_out.images, batch_size=16).features)
    assert found.features.shape == (40, 64)


def test_training_a_judge_leaves_the_global_random_numbers_alone():
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    train_judge(stripes(8, seed=0), classes=2, steps=2, batch_size=4)
    assert torch.equal(torch.rand(2), wanted)


def test_accuracies_are_by_name_and_leave_out_what_is_not_there():
    found, wanted = torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, 1])
    assert accuracies(found, wanted, ["a", "b", "c"]) == {"a": 0.5, "b": 0.5}
