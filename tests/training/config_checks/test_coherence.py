"""Settings without effect beside others are named before anything is built."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from micro_diffusion.training.config_checks.coherence import check_coherence
from micro_diffusion.training.config_checks.resolvers import register_resolvers
from micro_diffusion.training.config_checks.schema import validate

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
LOAD = "trainer.load_path=trained_models/mine/checkpoints/latest-rank0.pt"
OTHER = "trainer.load_path=trained_models/earlier/checkpoints/latest-rank0.pt"

SAVING = [
    "save_weights_only=true",
    "save_filename=a.pt",
    "save_latest_filename=b.pt",
    "save_ignore_keys=[rng]",
    "save_overwrite=true",
]


def check(*overrides: str) -> None:
    register_resolvers()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("quickstart_32_pretrain", overrides=["exp_name=mine", *overrides])
    validate(config)
    check_coherence(config)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["init_weights=raw"], "init_weights=raw has no effect without init_from"),
        ([LOAD, "init_from=trained_models/first"], "load_path would replace the weights of init_from"),
        (["trainer.load_weights_only=false"], "trainer.load_weights_only has no effect without trainer.load_path"),
        (["+trainer.load_ignore_keys=[a]"], "trainer.load_ignore_keys has no effect without trainer.load_path"),
        ([LOAD, "+trainer.load_strict_model_weights=false"], "would keep random weights for every name"),
        (["trust_checkpoint=true"], "trust_checkpoint has no effect without trainer.load_path"),
        (["trainer.load_path=other.pt"], "runs the code in it; set trust_checkpoint=true"),
        (["trainer.load_path=s3://bucket/a.pt"], "load_path=s3://bucket/a.pt is not in trained_models, the"),
        (["trainer.load_path=trained_models/../a.pt"], "is not in trained_models, the folder of your own runs, and"),
        (["trainer.save_folder=elsewhere/mine"], "resuming would run the code in its checkpoints"),
        *((["+trainer." + key], f"trainer.{key.partition('=')[0]} has no effect on checkpoints") for key in SAVING),
        (
            ["trainer.save_folder=mine2", "trainer.autoresume=false"],
            "save_folder=mine2 is neither in trained_models/mine",
        ),
        (["loggers.metrics_file.path=a.jsonl"], "put its exp_name, mine, into that path"),
        (
            ["callbacks.image_logger.folder=trained_models/other"],
            "folder=trained_models/other is neither in trained_mod",
        ),
        (["accept_changes=[optimizer.lr]"], "accept_changes names optimizer.lr, which does not change within a run"),
        (["accept_changes=[schedule.nonsense]"], "accept_changes names schedule.nonsense, which is no setting"),
        (["accept_changes=[trainer.max_duration.x]"], "names trainer.max_duration.x, which is no setting"),
        (["+trainer.console_log_interval=5ba"], "console_log_interval has no effect without trainer.log_to_console"),
        (["+trainer.console_stream=stdout"], "trainer.console_stream=stdout has no effect without trainer.log_to_con"),
        (["+trainer.log_traces=true"], "trainer.log_traces=True has no effect without trainer.log_to_console=true or"),
        (["trainer.progress_bar=true", "+trainer.console_stream=zzz"], "console_stream is 'zzz'; set it to stdout or"),
        ([LOAD, "+trainer.load_progress_bar=false"], "trainer.load_progress_bar has no effect where trainer.load_path"),
        (["parallelism=fsdp", "+trainer.ddp_sync_strategy=forced_sync"], "ddp_sync_strategy=forced_sync has no effect"),
        (
            ["+trainer.precision_config={amax_history_len: 4}"],
            "has no effect with machine.precision=fp32; leave it out",
        ),
        (["train_loader.cache_limit=10gb"], "train_loader.cache_limit=10gb would remove shards of"),
        (["+train_loader.keep_zip=true"], "train_loader.keep_zip has no effect on data that are not remote"),
        (
            ["trainer.load_path=s3://bucket/a.pt", "trainer.load_weights_only=false", "trust_checkpoint=true"],
            "trainer.load_path=s3://bucket/a.pt is remote, where its optimizer and algorithms cannot be compared",
        ),
        (["exp_name=../out"], "exp_name is '../out'; set it to the name of a folder"),
        (["exp_name=''"], "exp_name is ''; set it to the name of a folder"),
        (
            ["trainer.max_duration=ten"],
            "trainer.max_duration is 'ten'; set it to a whole number of at least 1 or a time such as 1000ba",
        ),
        (["trainer.save_interval=0ba"], "trainer.save_interval is '0ba'"),
        (["train_loader.batch_size=0"], "train_loader.batch_size is 0"),
        (["optimizer.lr=inf"], "optimizer.lr is inf; set it to a finite number of at least 0"),
        (["schedule=cosine", "schedule.alpha_f=-1"], "schedule.alpha_f is -1"),
        (["schedule=cosine", "schedule.t_warmup=-5ba"], "schedule.t_warmup is '-5ba'; set it to a time such as"),
        (["schedule=cosine", "schedule.t_warmup=''"], "schedule.t_warmup is ''"),
        (["callbacks.progress_lines.interval=-1ba"], "callbacks.progress_lines.interval is '-1ba'"),
        (["callbacks.image_logger.interval=''"], "callbacks.image_logger.interval is ''"),
        (["callbacks.speed_monitor.window_size=0"], "callbacks.speed_monitor.window_size is 0"),
        (["callbacks.optimizer_monitor.batch_log_interval=-1"], "callbacks.optimizer_monitor.batch_log_interval is -1"),
        (["algorithms.ema.start=-1ba"], "algorithms.ema.start is '-1ba'"),
        (["trainer.device_train_microbatch_size=0"], "trainer.device_train_microbatch_size is 0"),
        (["trainer.dist_timeout=0"], "trainer.dist_timeout is 0; set it to a finite number of at least 1"),
        (
            ["objective=edm_small", "objective.sigma_data=inf"],
            "objective.sigma_data is inf; set it to a finite number above 0",
        ),
        (["+backbone.norm_eps=-1"], "backbone.norm_eps is -1"),
        (["objective=edm_small", "objective.P_mean=inf"], "objective.P_mean is inf; set it to a finite number"),
        (["model.noise_bands=[1,inf]"], "model.noise_bands is [1, inf]; set it to a list (a finite number above 0)"),
        (["trainer.device=gpu"], "trainer.device is gpu, but machine.device is cpu; set machine.device alone"),
        (["trainer.precision=zzz"], "trainer.precision is 'zzz'; set it to fp32 or amp_fp16 or amp_bf16"),
        (["+trainer.profiler=3"], "trainer.profiler is 3; set it to a node with a _target_ or null"),
        (["trainer.device_train_microbatch_size=1.5"], "set it to a whole number, or to null for the whole batch"),
        ([LOAD, "+trainer.load_ignore_keys=[a]"], "is for what is loaded beside the weights; leave it out"),
        (["+trainer.callbacks=[]"], "trainer.callbacks would be replaced by what training makes of the configuration"),
        (["+optimizer.groups=[]"], "optimizer.groups would be replaced by what training makes of the configuration"),
        (["~schedule"], "the configuration has no schedule; choose one of the options in configs"),
        (["output_dir=''"], "output_dir is ''; set it to text that is not empty"),
        (["trainer.max_duration=null"], "trainer.max_duration is null; set it to a whole number"),
        (["trainer.max_duration=0.5dur"], "trainer.max_duration is '0.5dur'; set it to a whole number of"),
        (["trainer.save_folder=null"], "set it to a folder, or trainer.autoresume=false"),
        (["+trainer.train_subset_num_batches=0"], "set it to 1 or more, or to -1 for all batches"),
        (
            ["+trainer.accumulate_train_batch_on_tokens=true"],
            "trainer.accumulate_train_batch_on_tokens is true; set it to false",
        ),
        (["seed=-1"], "seed is -1; set it to a whole number from 0 to 4294967295"),
        (["seed=4294967296"], "seed is 4294967296"),
        (["resolution=abc"], "resolution is 'abc'; set it to a whole number"),
        (["trainer.device_train_microbatch_size=auto"], "it is halved where it does not fit"),
        (["trainer.save_num_checkpoints_to_keep=0"], "save_num_checkpoints_to_keep is 0; set it to 1 or more"),
        (["eval_loader=null", "+trainer.eval_subset_num_batches=2"], "eval_subset_num_batches has no effect"),
        (["machine=gpu", "model.cpu_precision=bf16"], "model.cpu_precision=bf16 has no effect on a GPU"),
        (["model.weight_dtype=bf16", "parallelism=fsdp"], "weight_dtype=bf16 does not go with sharded weights"),
        (["machine=cpu", "model.weight_dtype=bf16", "model.cpu_precision=fp32"], "needs products in bf16"),
        (["machine=gpu", "model.weight_dtype=bf16", "machine.precision=fp32"], "set machine.precision=amp_bf16"),
        (["model.caption_drop=0.0"], "guides away from the null caption, which is never trained"),
        (
            ["seed=x", "sampler.steps=many"],
            "seed is 'x'; set it to a whole number from 0 to 4294967295; sampler.steps is 'many'; ",
        ),
    ],
)
def test_what_has_no_effect_or_contradicts_is_named(overrides: list[str], problem: str):
    with pytest.raises(ValueError) as error:  # noqa: PT011 — the sentences hold brackets
        check(*overrides)
    assert problem in str(error.value)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        [LOAD, "trainer.load_weights_only=false"],
        [OTHER],
        [OTHER, "trust_checkpoint=true"],
        ["trainer.load_path=other.pt", "trust_checkpoint=true"],
        ["trainer.save_folder=elsewhere/mine", "trust_checkpoint=true", "loggers.metrics_file.path=mine.jsonl"],
        ["trainer.save_folder=elsewhere/mine", "trainer.autoresume=false", "loggers.tensorboard.folder=of-mine/all"],
        ["trainer.save_folder=s3://bucket/mine", "trust_checkpoint=true"],
        ["init_from=trained_models/first", "init_weights=raw"],
        ["eval_loader=null"],
        ["model.caption_drop=0.0", "prompts.guidance_scale=1"],
        ["accept_changes=[trainer.max_duration,schedule,machine.precision]"],
        ["accept_changes=[schedule.t_max,trainer.scale_schedule_ratio,model.caption_drop]"],
        ["+trainer.console_log_interval=5ba", "+trainer.log_to_console=true"],
        ["+trainer.console_stream=stdout", "+trainer.log_traces=true", "trainer.progress_bar=true"],
        ["+trainer.console_stream=stderr", "+trainer.log_to_console=true", "+trainer.log_traces=false"],
        ["train_loader.remote=s3://a/b", "train_loader.cache_limit=10gb", "+train_loader.keep_zip=true"],
        ["trainer.load_path=s3://bucket/a.pt", "trust_checkpoint=true"],
        [LOAD, "+trainer.load_exclude_algorithms=[LowPrecisionLayerNorm]"],
        ["exp_name=group/mine"],
        ["algorithms.ema.start=0ba", "schedule=cosine", "schedule.t_warmup=0ba", "callbacks.image_logger=null"],
        ["seed=4294967295", "trainer.device_train_microbatch_size=null"],
    ],
)
def test_what_fits_together_is_accepted(overrides: list[str]):
    check(*overrides)


def test_a_link_into_the_folder_of_runs_is_where_it_leads(tmp_path: Path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "link.pt").symlink_to(tmp_path / "downloaded.pt")
    with pytest.raises(ValueError, match="link.pt is not in .*/runs, the folder of your own runs"):
        check(f"output_dir={tmp_path}/runs", f"trainer.load_path={tmp_path}/runs/link.pt")
