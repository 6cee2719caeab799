#!/usr/bin/env bash
# Two network namespaces as two hosts, one process each, train one run together; then one process trains it alone.
#     sudo PYTHON=.venv/bin/python benchmarks/two_hosts.sh OUT [flags of swwae train]
set -euo pipefail
out=$1; shift
python=${PYTHON:-python}
flags=(--model swwae_mnist --model-arg 'notation=(8)5c-2p-(8)3c-2p-10fc' --data digits --labels 50 --num-val 50 --steps 12
       --batch-size 25 --labeled-batch 15 --lr 0.01 --warmup-steps 0 --model-arg drop_rate=0 --amp off --rounds 1 --no-twin --log-every 1 --device cpu --force "$@")
export OMP_NUM_THREADS=1 GLOO_SOCKET_IFNAME=wire0

undo() { ip netns del swwae-a 2>/dev/null || true; ip netns del swwae-b 2>/dev/null || true; }
trap undo EXIT
undo
ip netns add swwae-a; ip netns add swwae-b
ip link add name wire0 netns swwae-a type veth peer name wire0 netns swwae-b
for host in a:10.77.0.1 b:10.77.0.2; do
    ip -n "swwae-${host%%:*}" addr add "${host#*:}/24" dev wire0
    ip -n "swwae-${host%%:*}" link set wire0 up
    ip -n "swwae-${host%%:*}" link set lo up
done

launch() {  # name of the namespace, rank of the host
    ip netns exec "$1" "$python" -m torch.distributed.run --nnodes 2 --nproc-per-node 1 --node-rank "$2" \
        --master-addr 10.77.0.1 --master-port 29511 -m swwae_zoo.cli train "${flags[@]}" --out "$out/two"
}
launch swwae-b 1 & other=$!
launch swwae-a 0
wait "$other"
"$python" -m swwae_zoo.cli train "${flags[@]}" --out "$out/one"

"$python" - "$out" <<'END'
import json, sys
from pathlib import Path
one, two = ([json.loads(line) for line in (Path(sys.argv[1]) / name / "metrics.jsonl").read_text().splitlines()] for name in ("one", "two"))
pairs = [(a["loss"], b["loss"]) for a, b in zip(one, two, strict=True) if "loss" in a]
print(f"{len(pairs)} steps: losses differ by at most {max(abs(a - b) for a, b in pairs):.1e}")
END
