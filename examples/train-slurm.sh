#!/usr/bin/env bash
# Train IRN at 4x on two nodes with four GPUs each; submit it again (or as a chain) and it goes on where it was.
# usage: sbatch train-slurm.sh DIV2K_train_HR DIV2K_valid_HR RUN
#SBATCH --job-name=irn
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=08:00:00
set -euo pipefail
data=$1 validation=$2 run=$3

# Ends by itself, with a checkpoint, well before Slurm would end it.
arguments=(--data "$data" --val "$validation" -o "$run" --time-limit 7h45m)
if [ -e "$run/checkpoint.safetensors" ]; then
  arguments+=(--resume)
else
  arguments+=(-s 4 --recipe irn)
fi

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes="$SLURM_NNODES" --nproc-per-node=gpu --rdzv-id="$SLURM_JOB_ID" --rdzv-backend=c10d \
  --rdzv-endpoint="$head:29500" -m irn_cli train "${arguments[@]}"
