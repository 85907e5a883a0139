"""The precision of a network's products."""

import pytest
import torch

from micro_diffusion.machine.precision import autocast, computes_in_bf16


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_products_run_in_the_precision_asked_for(precision, dtype):
    with autocast("cpu", precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_auto_is_bf16_only_where_the_processor_has_it(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for supported in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda answer=supported: answer)
        assert computes_in_bf16("cpu") == supported


def test_another_precision_is_refused():
    with pytest.raises(ValueError, match="precision is 'fp8'; set it to auto, fp32 or bf16"):
        computes_in_bf16("cpu", "fp8")
