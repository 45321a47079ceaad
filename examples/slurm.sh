#!/usr/bin/env bash
# A large collection, shared out among the tasks of a Slurm array; submit it again to do what is missing.
# usage: sbatch slurm.sh PHOTOS SMALL
#SBATCH --job-name=irn
#SBATCH --array=1-8
#SBATCH --cpus-per-task=4
#SBATCH --mem=4G
#SBATCH --time=4:00:00
set -euo pipefail

irn downscale -o "$2" --shard slurm --skip-existing --memory 3GB -- "$1"
