"""The precision of a network's products."""

import pytest
import torch

from micro_diffusion.machine import precision
from micro_diffusion.machine.precision import Rates, autocast, computes_in_bf16, cpu_rates


@pytest.mark.parametrize(("wanted", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_products_run_in_the_precision_asked_for(wanted, dtype):
    with autocast("cpu", wanted):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize(
    ("supported", "rates", "answer"),
    [
        (True, Rates(100, 200), True),
        (True, Rates(165, 87), False),
        (True, Rates(100, 101), False),
        (False, Rates(1, 100), False),
    ],
)
def test_auto_is_bf16_where_the_processor_has_it_and_it_is_faster(monkeypatch, supported, rates, answer):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported)
    monkeypatch.setattr(precision, "cpu_rates", lambda: rates)
    assert computes_in_bf16("cpu") == answer


def test_rates_are_measured_once():
    assert cpu_rates() is cpu_rates() and min(cpu_rates()) > 0


def test_another_precision_is_refused():
    with pytest.raises(ValueError, match="precision is 'fp8'; set it to auto, fp32 or bf16"):
        computes_in_bf16("cpu", "fp8")
