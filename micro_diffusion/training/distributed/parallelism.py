"""What Composer is told about sharding a network over devices."""

from __future__ import annotations

import warnings
from typing import Literal

from composer.utils import dist
from composer.utils.parallelism import FSDP2Config

from micro_diffusion.bounds import PositiveInt

STATE_DICT_TYPES = {"whole": "full", "sharded": "sharded"}


class Sharded(FSDP2Config):
    """Every device keeps a share of all weights, gradients and moments, and gathers a layer when it needs it (FSDP2).

    Weights are gathered in fp32, so that the network computes what it computes on one device, autocast included.

    Args:
        replicas: groups of ranks, each holding all weights between them (HSDP): gradients are summed over groups,
            but weights are gathered within one; null makes every node a group.
        checkpoints: "whole", one file that runs of any parallelism go on from, or "sharded", a folder into which every
            rank writes its share, for sharded runs on any number of ranks.

    Raises:
        ValueError: when the ranks do not divide into so many groups.
    """

    def __init__(self, *, replicas: PositiveInt | None, checkpoints: Literal["whole", "sharded"]) -> None:
        ranks = dist.get_world_size()
        self.replicas = ranks // dist.get_local_world_size() if replicas is None else replicas
        if ranks % self.replicas:
            raise ValueError(f"parallelism.fsdp.replicas is {self.replicas}, but {ranks} ranks do not divide by that")
        if checkpoints not in STATE_DICT_TYPES:
            raise ValueError(f"parallelism.fsdp.checkpoints is {checkpoints}; set it to whole or sharded")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that Composer's class is experimental
            super().__init__(state_dict_type=STATE_DICT_TYPES[checkpoints], mixed_precision="FULL")

    @property
    def data_parallel_replicate_degree(self) -> int | None:
        """Groups, in the name by which Composer makes the mesh of devices; None for a single one."""
        return self.replicas if self.replicas > 1 else None
