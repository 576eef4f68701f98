#!/bin/bash
# Two nodes of eight GPUs that train, and the actor served on a third. Start it in the checkout, on a file system that
# all nodes share:
#   sbatch experiments/launch/slurm.sh experiments/configs/qwen2.5-7b.yaml
# The fine-tuned actor must be there: `critique-rl sft` comes before (docs/several_machines.md).
# A job that ends at its time limit goes on where it was when the same command is submitted again.
#SBATCH --job-name=critique_rl
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --output=slurm-%j.log
set -euo pipefail
CONFIG=${1:?"usage: sbatch experiments/launch/slurm.sh CONFIG [--set KEY=VALUE ...]"}
shift
LAUNCH=${LAUNCH:-experiments/launch/fsdp2-2x8.yaml}
BIN=${BIN:-.venv/bin}
ACTOR=${ACTOR:-runs/$(basename "$CONFIG" .yaml)/actor}
VLLM=${VLLM:-vllm}
PORT=8001

mapfile -t NODES < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
FIRST=${NODES[0]} SERVER=${NODES[2]}
ADDRESS="http://$SERVER:$PORT/v1"

# One server of eight copies of the actor. For the critics' rollouts by vLLM start a second one, on some of these GPUs.
srun --nodes=1 --ntasks=1 --nodelist="$SERVER" \
    "$VLLM" serve "$ACTOR" --generation-config vllm --data-parallel-size 8 --port "$PORT" &
SERVING=$!
trap 'kill "$SERVING" 2>/dev/null || true' EXIT
until curl --silent --fail "$ADDRESS/models" > /dev/null; do
    kill -0 "$SERVING" || { echo "the actor's server ended before it answered" >&2; exit 1; }
    sleep 5
done

# Each node has a rank of machines; accelerate starts its eight processes.
export FIRST LAUNCH BIN CONFIG ADDRESS
srun --nodes=2 --ntasks=2 --nodelist="$FIRST,${NODES[1]}" bash -c '
    exec "$BIN/accelerate" launch --config_file "$LAUNCH" --machine_rank "$SLURM_PROCID" \
        --main_process_ip "$FIRST" --main_process_port 29500 \
        -m critique_rl.cli run "$CONFIG" --set actor_server="$ADDRESS" "$@"
' launch "$@"
