"""Attention among cells and to text: its formulas, and what leaves it unchanged."""

import pytest
import torch

from micro_diffusion.layers.image_attention import ImageAttention, TextAttention, linear_attention


def test_linear_attention_has_its_formula():
    """The same as with the N×N matrix of weights that it never makes."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 10, 5)
    weights = q.softmax(dim=-1) @ k.softmax(dim=-2).mT
    torch.testing.assert_close(linear_attention(q, k, v), weights @ v / 5**0.5)


@pytest.mark.parametrize("kind", ["linear", "full"])
def test_cells_are_alike(kind):
    """Permuting the cells permutes the result: no cell has a place, and heads do not mix with cells."""
    torch.manual_seed(0)
    attention = ImageAttention(8, heads=2, head_dim=3, kind=kind)
    x, order = torch.randn(2, 8, 4, 6), torch.randperm(24)
    permuted = attention(x.flatten(2)[:, :, order].unflatten(2, (4, 6)))
    torch.testing.assert_close(permuted, attention(x).flatten(2)[:, :, order].unflatten(2, (4, 6)))


def test_full_attention_has_its_formula():
    torch.manual_seed(0)
    attention = ImageAttention(6, heads=1, head_dim=4, kind="full")
    x = torch.randn(1, 6, 3, 3)
    q, k, v = attention.qkv(attention.norm(x)).flatten(2)[0].chunk(3)
    expected = v @ (q.T @ k / 2).softmax(dim=1).T
    torch.testing.assert_close(attention(x), x + attention.out(expected.reshape(1, 4, 3, 3)))


def test_text_reaches_every_cell_and_masked_tokens_none():
    torch.manual_seed(0)
    attention = TextAttention(8, token_dim=5, heads=2, head_dim=4)
    x, tokens = torch.randn(2, 8, 3, 3), torch.randn(2, 4, 5)
    mask = torch.tensor([[True, True, False, False], [True, False, False, False]])
    with_mask = attention(x, tokens, mask)
    torch.testing.assert_close(with_mask[0], attention(x, tokens[:, :2])[0])
    torch.testing.assert_close(with_mask[1], attention(x, tokens[:, :1])[1])
    assert ((attention(x, tokens) - x).abs().amax(dim=1) > 0).all()
    torch.testing.assert_close(attention(x, torch.zeros(2, 4, 5)), x)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="attention is 'cosine'; set it to linear or full"):
        ImageAttention(8, heads=1, head_dim=8, kind="cosine")
