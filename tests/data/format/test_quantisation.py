"""Round trips of 8-bit storage: the error never exceeds its stated bound, and nothing is stored that cannot be."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from micro_diffusion.data.format.quantisation import from_int8, from_uint8, to_int8, to_uint8

EPS = np.finfo(np.float32).eps


def floats(limit: float) -> st.SearchStrategy[np.ndarray]:
    numbers = st.floats(-limit, limit, width=32)
    return arrays(np.float32, array_shapes(min_dims=2, max_dims=3, max_side=9), elements=numbers)


def decoded_int8(codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return from_int8(torch.from_numpy(codes), torch.from_numpy(scale)).numpy()


@settings(max_examples=300, deadline=None)
@given(floats(float(np.float32(1e30))))
def test_int8_errs_by_at_most_half_a_scale(values):
    codes, scale = to_int8(values, axes=1)
    scale = np.expand_dims(scale, 1)
    error = np.abs(values.astype(np.float64) - decoded_int8(codes, scale))
    smallest = np.finfo(np.float32).smallest_subnormal  # the scale of numbers near it has too few bits
    assert (error <= scale * 0.5 + np.abs(values) * 2 * EPS + 127 * smallest).all()


@settings(max_examples=300, deadline=None)
@given(floats(4.0))
def test_uint8_errs_by_at_most_half_a_step(values):
    decoded = from_uint8(to_uint8(values, limit=4.0), limit=4.0)
    assert (np.abs(values.astype(np.float64) - decoded) <= 4.0 / 255 + 8 * EPS * 4).all()


def test_int8_keeps_the_largest_value_and_zeros_exactly():
    values = np.float32([[-3.0, 0.0, 1.0], [0.0, 0.0, 0.0], [5.0, 5.0, 5.0]])
    codes, scale = to_int8(values, axes=1)
    decoded = decoded_int8(codes, scale[:, None])
    assert decoded[0, 0] == pytest.approx(-3.0, rel=1e-6)
    assert (decoded[:, 1][:2] == 0).all()
    assert (scale[1], *codes[1]) == (0, 0, 0, 0)
    np.testing.assert_allclose(decoded[2], 5.0, rtol=1e-6)


def test_an_outlier_coarsens_only_what_shares_its_scale():
    values = np.ones((2, 4), np.float32) * np.float32(0.3)
    values[0, 0] = 300
    codes, scale = to_int8(values, axes=1)
    error = np.abs(decoded_int8(codes, scale[:, None]) - values).max(axis=1)
    assert error[0] == pytest.approx(0.3)
    assert error[1] < 0.3 / 250


def test_uint8_ends_at_its_limits():
    assert to_uint8(np.float32([-2, 2]), limit=2.0).tolist() == [0, 255]
    assert from_uint8(np.uint8([0, 255]), limit=2.0).tolist() == [-2, 2]
    with pytest.raises(ValueError, match=r"2\.5 is beyond the limit 2 .* raise latent_format\.limit"):
        to_uint8(np.float32([0, -2.5]), limit=2.0)


def test_uint8_clips_where_asked_to():
    values = np.array([-2.5, -2, 0.01, 2, 99], dtype=np.float32)
    assert to_uint8(values, limit=2.0, clip=True).tolist() == to_uint8(values.clip(-2, 2), limit=2.0).tolist()
    assert values[-1] == 99


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_what_is_no_number_is_refused(bad):
    values = np.float32([[0, bad]])
    with pytest.raises(ValueError, match="not finite"):
        to_int8(values, axes=1)
    with pytest.raises(ValueError, match="not finite"):
        to_uint8(values, limit=8.0)
