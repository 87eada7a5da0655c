#!/usr/bin/env bash
# The project's benchmarks, one after another: bash scripts/bench.sh [--quick] [NAME ...]
#   analyze cli data eval layers mixers results runs tasks train     (all, if none is named)
# Each adds this machine's figures to docs/benchmarks/NAME.json, beside the page that tells what they
# mean; then docs/benchmarks/machines.md, which compares machines, is written anew. About an hour and
# a half on two cores that do nothing else. --quick: about 7 minutes, fewer rounds and sizes, to
# outputs/benchmarks, so that no published figure is replaced. GPUs: scripts/bench_gpu.py.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${PYTHON:-}" ]; then
    source scripts/setup.sh
    PYTHON=$PWD/.venv/bin/python
fi
all="analyze cli data eval layers mixers results runs tasks train"
# Arguments of a short run.
short() {
    case $1 in
        analyze) echo "--lengths 1024 2048" ;;
        cli) echo "--repeat 1" ;;
        data) echo "--documents 1e5 --tokens 1e8" ;;
        eval) echo "--longest 16384 --full 4096 --repeats 1" ;;
        layers) echo "--rounds 2 --parts trunks" ;;
        mixers) echo "--lengths 256,512 --tokens 1024 --repeats 1" ;;
        results) echo "--runs 10" ;;
        runs) echo "--runs 2 --tokens 5e4 --scored 4096 --rounds 1" ;;
        tasks) echo "--runs 4 --tokens 5e3 --rounds 1" ;;
        train) echo "--rounds 1 --seq-len 256 --only nope rope alibi t5" ;;
        *) echo "$1: no benchmark; allowed: $all" >&2; return 2 ;;
    esac
}
folder=docs/benchmarks is_quick=
if [ "${1:-}" = --quick ]; then
    folder=outputs/benchmarks is_quick=1
    shift
fi
[ $# -gt 0 ] || set -- $all
for name in "$@"; do short "$name" >/dev/null; done # before the first one starts
mkdir -p "$folder"
for name in "$@"; do
    echo "== $name" >&2
    "$PYTHON" "scripts/bench_$name.py" ${is_quick:+$(short "$name")} --json "$folder/$name.json"
done
"$PYTHON" scripts/bench_machines.py --folder "$folder"
echo "written: $folder/*.json, $folder/machines.md" >&2
