"""Overrides of the stages that are wrong, and others that are right, whatever else is set."""

import string
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from micro_diffusion.training.config_checks.schema import ROOT


def pairs(values: Mapping[str, Sequence[Any]]) -> st.SearchStrategy[str]:
    """`key=value` with one of the key's values."""
    return st.sampled_from([f"{key}={value}" for key, options in values.items() for value in options])


NAMES = st.text(string.ascii_lowercase, min_size=4, max_size=9).filter(lambda name: name not in ROOT)
SYNTAX = st.sampled_from(
    ["seed", "=3", "seed=[1", "seed={a:", "~nothing", "++", "seed=1=2:]", "model.=3", "+seed=3", "@=1", "a b=c d"]
)
UNKNOWN = NAMES.flatmap(
    lambda name: st.sampled_from(
        [
            *(f"{key}{name}=1" for key in ("", "+", "model.", "+model.", "+trainer.", "+machine.", "+callbacks.")),
            *(f"{key}={name}" for key in ("optimizer", "+optimizer", "model._target_", "+loggers.new._target_")),
            *(f"+algorithms.{name}.smoothing=1", f"~{name}"),
        ]
    )
)
WRONG = {
    "train_loader.batch_size": ["'1'", "1.5", "{a: 1}"],
    "optimizer.lr": ["nan", "'1'", "[1]"],
    "trainer.max_duration": ["ten", "0ba", "-5ba", "[1]"],
    "trainer.eval_interval": ["often", 0],
    "trainer.load_path": ["elsewhere.pt"],
    "+trainer.console_log_interval": ["5ba"],
    "train_loader.cache_limit": ["10gb"],
    "trainer.compile_config": ["yes", 3],
    "trainer.device_train_microbatch_size": ["auto", 1.5, -4],
    "trainer.save_num_checkpoints_to_keep": [0, -2],
    "init_weights": ["raw", "best"],
    "accept_changes": ["[optimizer.lr]", "[nothing]", "[schedule.nonsense]"],
    "exp_name": ["../up", "/tmp/x", 2024, "'???'"],
    "machine": ["abacus", "null"],
    "callbacks": ["none", "3"],
    "trust_checkpoint": ["true", "maybe"],
    "output_dir": ["s3://me:my-password@host", "hf_aaaaaaaaaaaaaaaaaaaaaaaaaaaa"],
    "schedule.t_max": ["9ba"],
    "seed": [2**32, "${nowhere}", "${oc.env:IT_IS_NOT_SET}", "${divide:7,2}", "${divide:7,0}"],
    "optimizer.betas": ["[0.9,1]", "[-0.1,0.9]", "[0.9]"],
    "+schedule.t_warmup": ["-5ba", "''"],
    "callbacks.progress_lines.interval": ["-1ba", "''", "often"],
}
WRONG_OF_DIFFUSION = {
    "resolution": [33, 1001],
    "model.train_mask_ratio": [-0.1, 1, 1.5, "nan"],
    "model.caption_drop": [-0.5, 2],
    "model.noise_bands": ["[2,1]", "[0]", "[-1,1]", "3"],
    "model.cpu_precision": ["fp16", "8"],
    "model.backbone.depth": [3],
    "callbacks.image_logger.pipeline.sampler.steps": [3],
    "+objective.sigma_min": [90],
    "backbone.dim": [-32, 33, "1.5"],
    "backbone.head_dim": [7],
    "backbone.patch_size": [3],
    "prompts.captions": ["[]", "one", "[1,2]"],
    "prompts.guidance_scale": ["inf", "nan"],
    "text_encoder": ["bert"],
    "sampler": ["ddim", "null"],
    "backbone": ["huge"],
    "autoencoder": ["null"],
}

RIGHT = {
    "seed": [0, 2**32 - 1],
    "exp_name": ["mine", "group/mine", "a-b_c.d"],
    "optimizer": ["adamw"],
    "optimizer.lr": ["1e-3", 0, 1],
    "optimizer.weight_decay": [0, 0.5],
    "schedule": ["constant", "cosine", "cosine_to_zero", "warmup", "one_cycle", "multi_step"],
    "algorithms": ["standard", "ema", "ema_small"],
    "callbacks": ["monitors"],
    "train_loader.batch_size": [16, 512],
    "train_loader.shuffle": ["false"],
    "eval_loader": ["null"],
    "trainer.max_duration": ["2000ba", "3ep", 5],
    "trainer.save_interval": ["10ba", "1ep"],
    "trainer.device_train_microbatch_size": ["null", 1, 4],
    "accept_changes": ["[trainer.max_duration]"],
    "machine": ["cpu", "gpu"],
    "trainer.compile_config": ["{}", "{backend: aot_eager}"],
    "init_from": ["trained_models/other"],
}
RIGHT_OF_DIFFUSION = {
    "resolution": [64, 128, "${divide:512,2}"],
    "model.train_mask_ratio": [0, 0.5, 0.9],
    "model.caption_drop": [0.05, 1],
    "model.noise_bands": ["[]", "[1]", "[0.1,0.2,5]"],
    "optimizer": ["muon"],
    "objective": ["edm", "edm_512", "edm_small", "edm_middle"],
    "objective.P_mean": [-3, 0.25],
    "sampler": ["heun", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde"],
    "levels": ["karras", "exponential", "linear_time"],
    "sampler.steps": [1, 250],
    "backbone": ["nano", "tiny"],
    "backbone.depth": [1, 3],
    "backbone.position_scale": [0.5, 4],
    "+backbone.expert_capacity": [0.5, 1, 3],
    "+backbone.norm_eps": [1e-5],
    "autoencoder": ["sdxl", "ostris_16ch", "bundled"],
    "text_encoder": ["open_clip", "t5", "tiny"],
    "prompts": ["photos", "shapes", "emoji"],
    "prompts.captions": ["[a cat]", "[a cat, 'a dog: 2']"],
    "callbacks": ["standard"],
}
RIGHT_OF_QUICKSTART = {
    "optimizer.momentum": [0, 0.5, 0.99],
    "optimizer.steps": [1, 5],
    "optimizer.matrix_lr_scale": [0.5, 20],
    "algorithms.ema.start": ["0ba", "1ba", "0.1dur"],
    "algorithms.ema.smoothing": [0.5, 0.9999],
    "trainer.eval_interval": ["1ba", 1, "0.5dur"],
    "train_loader.caption_probabilities": ["[1]", "null"],
    "train_loader.cache_limit": ["null"],
    "callbacks.nan_guard.max_skipped_batches": [2],
}
RANGES = {
    "seed": st.integers(0, 2**32 - 1),
    "optimizer.lr": st.floats(0, 1),
    "optimizer.weight_decay": st.floats(0, 1),
    "model.train_mask_ratio": st.floats(0, 0.95),
    "model.caption_drop": st.floats(0.01, 1),
    "objective.P_mean": st.floats(-5, 5),
    "objective.sigma_data": st.floats(0.01, 10),
    "backbone.depth": st.integers(1, 40),
    "backbone.position_scale": st.floats(0.1, 8),
    "sampler.steps": st.integers(1, 1000),
    "prompts.guidance_scale": st.floats(0, 50),
    "prompts.seed": st.integers(0, 2**32 - 1),
    "train_loader.batch_size": st.integers(1, 10**6),
    "train_loader.workers": st.integers(0, 64),
    "trainer.max_duration": st.integers(1, 10**9).map(lambda steps: f"{steps}ba"),
    "trainer.dist_timeout": st.floats(1, 10**6),
    "callbacks.nan_guard.max_skipped_batches": st.integers(0, 10**6),
}
"""Numbers of the full stages, any of which is right."""


def several(texts: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    """Up to three overrides of different keys; an option of a group comes without leaves of that group."""
    unique = st.lists(texts, min_size=1, max_size=3, unique_by=lambda text: text.strip("+").split("=")[0].split(".")[0])
    return unique.map(lambda chosen: sorted(chosen, key=lambda text: "." in text))


def in_range() -> st.SearchStrategy[str]:
    """`key=value` with a number of the key's range."""
    return st.sampled_from(sorted(RANGES)).flatmap(lambda key: RANGES[key].map(lambda value: f"{key}={value}"))
