#!/usr/bin/env bash
#SBATCH --job-name=whisper-min
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
# Train on a Slurm cluster: a torchrun on each host, a rank on each GPU; from the repository, with its environment active:
#   sbatch runs/slurm.sh --run big --model large-v3 --data my/train.jsonl --eval_data my/dev.jsonl --save_every 500
# All hosts must see the repository and the cache (WHISPER_MIN_DATA, else ../whisper-min-data) under one path.
# Five minutes before the time limit the run is saved, and the job queued again; --run lets it go on. A rank that dies is
# started again, with all others, from the last checkpoint.
set -euo pipefail
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=240       # seconds for the last checkpoint, of the 300 that --signal leaves
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1     # restarted ranks must not look for dead ones

limit_is_near=
trap 'limit_is_near=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1   # the job's steps, not this script

srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node gpu --max-restarts 3 \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$first:29500" \
    -- train.py --data_dir "${WHISPER_MIN_DATA:-../whisper-min-data}" "$@" &
training=$!

code=0
wait "$training" || code=$?                     # returns early where the signal comes
if [ -n "$limit_is_near" ]; then
    wait "$training" || true
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
