"""How evenly expert-choice experts share the tokens: every expert takes as many, but a token may go without."""

from __future__ import annotations

from typing import Any

import torch
from composer import Callback, Logger, State
from torch import Tensor, nn

from micro_diffusion.backbone.experts import ExpertChoice
from micro_diffusion.training.trainable import trained_model


class RouterLoad(Callback):
    """Logs of each evaluation, for every sparse block, `router/BLOCK/untaken` and `router/BLOCK/most`.

    untaken: share of the tokens that no expert takes. most: experts that take the most wanted token of an image, the
    mean over images. With as many tokens taken as there are, chance leaves about exp(−1) of them out.
    """

    def __init__(self) -> None:
        self._hooks: list[Any] = []
        self._seen: dict[str, list[Tensor]] = {}

    def eval_start(self, state: State, logger: Logger) -> None:
        """Watch every router."""
        for name, module in trained_model(state.model).network.named_modules():
            if isinstance(module, ExpertChoice):
                self._hooks.append(module.register_forward_hook(self._watch(name), with_kwargs=True))

    def _watch(self, name: str) -> Any:
        @torch.no_grad()
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Any], output: Tensor) -> None:
            routed_by = named.get("routed_by")
            tokens = inputs[0] if routed_by is None else routed_by
            assert isinstance(module, ExpertChoice)
            self._seen.setdefault(name, []).append(load(module, tokens))

        return hook

    def eval_end(self, state: State, logger: Logger) -> None:
        """Say what was seen."""
        for hook in self._hooks:
            hook.remove()
        for name, loads in self._seen.items():
            taken = torch.cat(loads).float()
            untaken, most = float((taken == 0).float().mean()), float(taken.max(dim=1).values.mean())
            logger.log_metrics({f"router/{name}/untaken": untaken, f"router/{name}/most": most})
        self._hooks, self._seen = [], {}


def load(experts: ExpertChoice, tokens: Tensor) -> Tensor:
    """(B, T, D) that the gate sees -> (B, T), how many experts take each token."""
    chosen = experts.route(tokens)[1].flatten(1)
    return torch.zeros(tokens.shape[:2], dtype=torch.long, device=tokens.device).scatter_add(
        1, chosen, torch.ones_like(chosen)
    )
