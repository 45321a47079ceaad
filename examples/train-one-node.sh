#!/usr/bin/env bash
# Train IRN at 4x on all GPUs of one machine, then go on with IRN+ on one of them.
# usage: train-one-node.sh DIV2K_train_HR DIV2K_valid_HR RUN VGG19.pth
set -euo pipefail
data=$1 validation=$2 run=$3 vgg=$4

# The batch is that of all processes together; each takes an equal share of it.
torchrun --standalone --nproc-per-node=gpu -m irn_cli train \
  --data "$data" --val "$validation" -s 4 --recipe irn -o "$run/irn"

irn train --data "$data" --val "$validation" --recipe irn-plus --init "$run/irn/weights.safetensors" \
  --vgg "$vgg" --vgg-input torchvision -o "$run/irn-plus"
