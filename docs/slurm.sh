#!/usr/bin/env bash
#SBATCH --job-name=swwae
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
# One launcher a node, which starts a process for each GPU. A job that is requeued goes on from its last checkpoint.
set -euo pipefail
out=${OUT:-$PWD/runs/cifar}
resume=()
if [[ -f $out/config.toml ]]; then resume=(--resume); fi
host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 8 --max-restarts 3 \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$host:29500" \
    -m swwae_zoo.cli train --model swwae_cifar_vgg --sync-bn --out "$out" "${resume[@]}"
