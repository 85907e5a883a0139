"""Feed-forward layers: SwiGLU, and a mixture of experts in which the experts choose their tokens.

Legend: B batch, T tokens, D width, H hidden width, E experts, N tokens an expert takes from one sample.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from micro_diffusion.backbone.recomputation import activated_product, recomputed


class SwiGLU(nn.Module):
    """w3(silu(w1·x) · w2·x), without biases (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, hidden, bias=False)
        self.w2 = nn.Linear(dim, hidden, bias=False)
        self.w3 = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        if not isinstance(self.w3, nn.Linear):  # but an adapter around it, whose result is more than the weight's
            return self.w3(_swish_gate(self.w1(x), self.w2(x)))
        return activated_product(_swish_gate, self.w3.weight, self.w1(x), self.w2(x), tokens=x)


def _swish_gate(x: Tensor, y: Tensor) -> Tensor:
    return functional.silu(x) * y


class ExpertChoice(nn.Module):
    """Mixture of experts with expert choice (Zhou et al. 2022, arXiv 2202.09368).

    A softmax over experts scores every token; each expert takes the N = capacity·T/E tokens of a sample that score it
    highest (at least one), and its output is weighted by the score. A token may be taken by several experts or none.
    """

    def __init__(self, dim: int, hidden: int, *, experts: int, capacity: float) -> None:
        super().__init__()
        if not 0 < capacity <= experts:
            raise ValueError(f"expert_capacity is {capacity}; choose more than 0 and at most the {experts} experts")
        self.experts, self.capacity = experts, capacity
        self.gate = nn.Linear(dim, experts, bias=False)
        self.w1 = nn.Parameter(torch.empty(experts, dim, hidden))
        self.w2 = nn.Parameter(torch.empty(experts, hidden, dim))
        for stack in (self.w1, self.w2):
            for weight in stack:
                nn.init.xavier_uniform_(weight)

    def tokens_per_expert(self, tokens: int) -> int:
        """T -> N, from 1 to T."""
        return max(1, int(self.capacity * tokens / self.experts))

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) -> the scores (B, E, N) and places (B, E, N) of the tokens that each expert takes."""
        scores = self.gate(x).float().softmax(dim=-1)
        score, chosen = scores.transpose(1, 2).topk(self.tokens_per_expert(x.shape[1]), dim=-1)
        return score, chosen

    def forward(self, x: Tensor, routed_by: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D). routed_by: (B, T, D) what the gate sees in place of x."""
        batch, tokens, dim = x.shape
        score, chosen = self.route(x if routed_by is None else routed_by)
        sample_start = torch.arange(batch, device=x.device)[:, None, None] * tokens
        rows = (chosen + sample_start).transpose(0, 1).reshape(-1)  # expert by expert
        taken = x.reshape(-1, dim).index_select(0, rows).unflatten(0, (self.experts, -1))
        made = activated_product(functional.gelu, self.w2, torch.bmm(taken, self.w1), tokens=x)

        def gathered(made: Tensor, score: Tensor) -> Tensor:
            weighted = made * score.transpose(0, 1).reshape(self.experts, -1, 1).to(made.dtype)
            return made.new_zeros(batch * tokens, dim).index_add(0, rows, weighted.flatten(0, 1))

        return recomputed(gathered, made, score, tokens=x).unflatten(0, (batch, tokens))
