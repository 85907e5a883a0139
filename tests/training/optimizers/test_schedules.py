"""The cosine schedules fall to where they say, and do not rise again in the steps after that."""

from types import SimpleNamespace

import pytest
from composer import Time, Timestamp
from hydra.utils import instantiate
from omegaconf import OmegaConf


@pytest.mark.parametrize("name", ["cosine", "cosine_to_zero"])
def test_a_cosine_does_not_rise_again(name: str):
    config = OmegaConf.load(f"configs/schedule/{name}.yaml")
    schedule, duration = instantiate(config), Time.from_batch(1000)
    factors = [
        schedule(SimpleNamespace(max_duration=duration, timestamp=Timestamp(batch=step), dataloader_len=None))
        for step in range(0, 1501, 10)
    ]
    assert (factors[0], factors[1]) == (0.0, 1.0)
    assert factors[1:] == sorted(factors[1:], reverse=True)
    assert factors[100:] == pytest.approx([config.alpha_f] * 51)
