#!/usr/bin/env bash
# Every question and every lever, on what this machine has: benchmarks/speed/all.sh FOLDER [gpu]
# FOLDER gets an environment for this package and one for each peer, whose requirements exclude each other; what is
# there already is kept. With `gpu`, JAX comes with CUDA; PyTorch does from the package index by itself.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
folder=$(mkdir -p "$1" && cd "$1" && pwd)
kind=${2:-cpu}
python=${PYTHON:-python3}

environment() {  # name, packages
    local name=$1 bin="$folder/$1/bin"
    shift
    [ -e "$folder/$name/ready" ] && return
    "$python" -m venv "$folder/$name"
    "$bin/pip" install --quiet "$@" --editable .
    touch "$folder/$name/ready"
}

environment ours tblite $([ "$kind" = gpu ] && echo 'jax[cuda12]')
environment nequip torch==2.13.0 nequip==0.6.1
environment mace torch==2.13.0 mace-torch==0.3.16
environment mlip mlip==0.2.5 $([ "$kind" = gpu ] && echo 'jax[cuda12]')

bin="$folder/ours/bin/python"
"$bin" -m benchmarks.speed.run --nequip "$folder/nequip/bin/python" --mace "$folder/mace/bin/python" \
    --mlip "$folder/mlip/bin/python"
if [ "$kind" = gpu ]; then "$bin" -m benchmarks.speed.levers; else taskset -c 0 "$bin" -m benchmarks.speed.levers; fi
