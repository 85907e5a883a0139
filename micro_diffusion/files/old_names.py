"""Names in configurations and records of earlier versions, and those of today; docs/upgrading.md tells people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEYS = {
    "pictures": "images",
    "captions_per_picture": "captions_per_image",
}
"""Keys of run configurations, of recipes and of records of prepared data."""

MODULES = {
    "micro_diffusion.data.batch_memory": "micro_diffusion.data.format.batch_memory",
    "micro_diffusion.data.caption_choice": "micro_diffusion.data.stream.caption_choice",
    "micro_diffusion.data.caption_formats": "micro_diffusion.data.format.caption_formats",
    "micro_diffusion.data.column_reader": "micro_diffusion.data.stream.column_reader",
    "micro_diffusion.data.columns": "micro_diffusion.data.format.columns",
    "micro_diffusion.data.convert": "micro_diffusion.data.prepare.convert",
    "micro_diffusion.data.copies": "micro_diffusion.data.stream.copies",
    "micro_diffusion.data.crops": "micro_diffusion.data.image.crops",
    "micro_diffusion.data.description": "micro_diffusion.data.prepare.description",
    "micro_diffusion.data.encoding": "micro_diffusion.data.prepare.encoding",
    "micro_diffusion.data.engine": "micro_diffusion.data.prepare.engine",
    "micro_diffusion.data.hashed_draws": "micro_diffusion.data.keyed_random",
    "micro_diffusion.data.image_loader": "micro_diffusion.data.stream.image_loader",
    "micro_diffusion.data.images": "micro_diffusion.data.stream.images",
    "micro_diffusion.data.integrity": "micro_diffusion.data.stream.integrity",
    "micro_diffusion.data.latent_formats": "micro_diffusion.data.format.latent_formats",
    "micro_diffusion.data.latent_statistics": "micro_diffusion.data.prepare.latent_statistics",
    "micro_diffusion.data.latents": "micro_diffusion.data.stream.latents",
    "micro_diffusion.data.loader": "micro_diffusion.data.stream.loader",
    "micro_diffusion.data.metadata": "micro_diffusion.data.format.metadata",
    "micro_diffusion.data.mixture": "micro_diffusion.data.stream.mixture",
    "micro_diffusion.data.output_folder": "micro_diffusion.data.prepare.output_folder",
    "micro_diffusion.data.parts": "micro_diffusion.data.prepare.parts",
    "micro_diffusion.data.picture": "micro_diffusion.data.image.open_image",
    "micro_diffusion.data.precompute": "micro_diffusion.data.prepare.precompute",
    "micro_diffusion.data.preparation": "micro_diffusion.data.prepare.preparation",
    "micro_diffusion.data.quantisation": "micro_diffusion.data.format.quantisation",
    "micro_diffusion.data.random_latents": "micro_diffusion.data.prepare.random_latents",
    "micro_diffusion.data.ranks": "micro_diffusion.data.prepare.ranks",
    "micro_diffusion.data.remote": "micro_diffusion.data.stream.remote",
    "micro_diffusion.data.row_format": "micro_diffusion.data.format.row_format",
    "micro_diffusion.data.shapes": "micro_diffusion.data.sources.shape_scenes",
    "micro_diffusion.data.shard_stream": "micro_diffusion.data.stream.shard_stream",
    "micro_diffusion.data.shared_memory": "micro_diffusion.data.stream.shared_memory",
    "micro_diffusion.data.storage": "micro_diffusion.data.prepare.storage",
    "micro_diffusion.data.transforms": "micro_diffusion.data.image.transforms",
    "micro_diffusion.training.adamw": "micro_diffusion.training.optimizers.adamw",
    "micro_diffusion.training.averaged_gradients": "micro_diffusion.training.distributed.averaged_gradients",
    "micro_diffusion.training.bounds": "micro_diffusion.training.config_checks.bounds",
    "micro_diffusion.training.changes": "micro_diffusion.training.checkpoints.changes",
    "micro_diffusion.training.checkpoint_content": "micro_diffusion.training.checkpoints.content",
    "micro_diffusion.training.checkpoint_files": "micro_diffusion.training.checkpoints.files",
    "micro_diffusion.training.checkpoint_saver": "micro_diffusion.training.checkpoints.saver",
    "micro_diffusion.training.coherence": "micro_diffusion.training.config_checks.coherence",
    "micro_diffusion.training.compact_adamw": "micro_diffusion.training.optimizers.compact_adamw",
    "micro_diffusion.training.draws": "micro_diffusion.training.seeded_random",
    "micro_diffusion.training.ema": "micro_diffusion.training.optimizers.ema",
    "micro_diffusion.training.errors": "micro_diffusion.training.config_checks.errors",
    "micro_diffusion.training.first_weights": "micro_diffusion.training.checkpoints.first_weights",
    "micro_diffusion.training.gradient_clipping": "micro_diffusion.training.optimizers.gradient_clipping",
    "micro_diffusion.training.hyperparameters": "micro_diffusion.training.optimizers.hyperparameters",
    "micro_diffusion.training.image_logger": "micro_diffusion.training.callbacks.image_logger",
    "micro_diffusion.training.interruption": "micro_diffusion.training.callbacks.interruption",
    "micro_diffusion.training.leaf_types": "micro_diffusion.training.config_checks.types",
    "micro_diffusion.training.machine_faults": "micro_diffusion.training.distributed.machine_faults",
    "micro_diffusion.training.memory": "micro_diffusion.training.callbacks.smaller_batches",
    "micro_diffusion.training.metrics_file": "micro_diffusion.training.callbacks.metrics_file",
    "micro_diffusion.training.muon": "micro_diffusion.training.optimizers.muon",
    "micro_diffusion.training.nan_guard": "micro_diffusion.training.callbacks.nan_guard",
    "micro_diffusion.training.parallelism": "micro_diffusion.training.distributed.parallelism",
    "micro_diffusion.training.places": "micro_diffusion.training.config_checks.paths",
    "micro_diffusion.training.progress": "micro_diffusion.training.callbacks.progress",
    "micro_diffusion.training.reconstruction_logger": "micro_diffusion.training.callbacks.reconstruction_logger",
    "micro_diffusion.training.remote_checkpoints": "micro_diffusion.training.checkpoints.remote",
    "micro_diffusion.training.resolvers": "micro_diffusion.training.config_checks.resolvers",
    "micro_diffusion.training.resumption": "micro_diffusion.training.checkpoints.resumption",
    "micro_diffusion.training.run_folder": "micro_diffusion.training.checkpoints.run_folder",
    "micro_diffusion.training.same_data": "micro_diffusion.training.checkpoints.same_data",
    "micro_diffusion.training.schema": "micro_diffusion.training.config_checks.schema",
    "micro_diffusion.training.secrets": "micro_diffusion.training.config_checks.secrets",
    "micro_diffusion.training.sharding": "micro_diffusion.training.distributed.sharding",
    "micro_diffusion.training.shared_pages": "micro_diffusion.training.distributed.shared_pages",
    "micro_diffusion.training.tensorboard": "micro_diffusion.training.callbacks.tensorboard",
}
"""Modules that a `_target_` may name."""


TARGETS = {"micro_diffusion.autoencoder.kl.KLAutoencoder.load": "micro_diffusion.autoencoder.saved.load_autoencoder"}
"""What a `_target_` may name within a module that has kept its own name."""


_TINY = "TinyTextEncoder"


def renamed(value: Any) -> Any:
    """A configuration or record in today's names, nested ones included; everything else as it is."""
    if isinstance(value, Mapping):
        value = _with_window(_with_levels(value))
        return {
            KEYS.get(key, key): _target(child) if key == "_target_" else renamed(child) for key, child in value.items()
        }
    return [renamed(child) for child in value] if isinstance(value, list) else value


def _target(name: str) -> str:
    module, _, attribute = name.rpartition(".")
    return TARGETS.get(name, f"{MODULES.get(module, module)}.{attribute}")


def _with_levels(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """Samplers had the `rho` of their noise levels themselves."""
    if "rho" not in node or not str(node.get("_target_", "")).endswith("Sampler"):
        return node
    kept = {key: value for key, value in node.items() if key != "rho"}
    return {**kept, "levels": {"_target_": "micro_diffusion.sampling.noise_levels.Karras", "rho": node["rho"]}}


def _with_window(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """A tiny text encoder and its record: the window was of three words when nothing else was told of it."""
    is_tiny = str(node.get("_target_", _TINY)).endswith(_TINY) and set(node) - {"_target_"} == {"dim", "max_length"}
    return {**node, "window": 3} if is_tiny else node
