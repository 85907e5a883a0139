"""Attention: rotary positions are relative, masks hide, and the plain products equal the fused kernel."""

import torch
from torch.nn import functional

from micro_diffusion.backbone.attention import attend, plain_attention, rotate
from micro_diffusion.backbone.embedding import rotary_angles


def test_rotary_scores_depend_on_the_distance_only():
    angles = rotary_angles(4, 6, 8, 1.0)
    q, k = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    turned_q, turned_k = (rotate(x.expand(1, 24, -1), angles)[0] for x in (q, k))
    scores = (turned_q @ turned_k.T).view(4, 6, 4, 6)
    torch.testing.assert_close(scores[0, 1, 2, 4], scores[1, 2, 3, 5])
    assert not torch.isclose(scores[0, 0, 2, 3], scores[0, 0, 3, 2])


def test_rotation_keeps_lengths_and_the_origin():
    angles = rotary_angles(3, 3, 8, 2.0)
    x = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(rotate(x, angles).norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(rotate(x, angles)[:, 0], x[:, 0])


def test_masked_rows_do_not_count():
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(2, n, 16, generator=generator) for n in (5, 7, 7))
    mask = torch.arange(7) < torch.tensor([[3], [7]])
    made = attend(q, k, v, 8, mask)
    torch.testing.assert_close(made[:1], attend(q[:1], k[:1, :3], v[:1, :3], 8))
    torch.testing.assert_close(made[1:], attend(q[1:], k[1:], v[1:], 8))


def test_plain_products_equal_the_fused_kernel():
    q, k, v = torch.randn(3, 2, 4, 6, 8, generator=torch.Generator().manual_seed(3))
    rows = (torch.arange(6) < torch.tensor([[2], [6]]))[:, None, None]
    for mask in (None, rows):
        fused = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        torch.testing.assert_close(plain_attention(q, k, v, mask), fused)
