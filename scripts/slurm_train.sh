#!/usr/bin/env bash
# One training on several nodes under Slurm: on each node a composer launcher, which starts a rank for every GPU.
#
#   sbatch --nodes 2 scripts/slurm_train.sh 256_pretrain parallelism=hsdp machine=80gb
#
# The stage comes first, Hydra overrides follow. Submit from the checkout, with its environment active. A job that was
# interrupted goes on from its last checkpoint when it is submitted again; Slurm does so by itself after a node failed.
#SBATCH --job-name=micro_diffusion
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --requeue
#SBATCH --output=slurm-%j.out
set -euo pipefail

if [[ $# -eq 0 || -z ${SLURM_JOB_NODELIST:-} ]]; then
    echo "slurm_train.sh: give a stage and start it by Slurm: sbatch --nodes 2 $0 256_pretrain [key=value ...]" >&2
    exit 2
fi
stage=$1
shift

ranks_per_node=${SLURM_GPUS_ON_NODE:?the job has no GPU; add --gpus-per-node=8 to sbatch}
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first_node=${nodes%%$'\n'*}

# Since Slurm 22.05 srun has to be given the job's cores again. Each node knows its own number only inside srun, hence the
# inner shell.
# shellcheck disable=SC2016
exec srun --kill-on-bad-exit=1 ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
    bash -c 'exec composer --node_rank "$SLURM_NODEID" "$@"' composer \
    --nproc "$ranks_per_node" \
    --world_size $((SLURM_NNODES * ranks_per_node)) \
    --master_addr "$first_node" \
    --master_port $((20000 + SLURM_JOB_ID % 20000)) \
    train.py --config-path ./configs --config-name "$stage.yaml" "$@"
