#!/usr/bin/env bash
# The long suite of faults: tests/faults with LEXP_FAULTS_KILLS (1000) kills at random steps.
# Writes what it found below the heading "Last results" of docs/faults.md. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
export LEXP_FAULTS_KILLS="${LEXP_FAULTS_KILLS:-1000}" OMP_NUM_THREADS=1
python="${PYTHON:-.venv/bin/python}"
page=docs/faults.md
said=$(mktemp)
trap 'rm -f "$said"' EXIT
started=$SECONDS
"$python" -m pytest tests/faults -s "$@" | tee "$said"
sed -i '/^## Last results$/q' "$page"
{
    echo
    echo "$(date -u +%F), commit $(git rev-parse --short HEAD), $("$python" --version), torch" \
        "$("$python" -c 'import torch; print(torch.__version__)'), $(nproc) CPU cores," \
        "$(((SECONDS - started) / 60)) minutes: $(tail -n 1 "$said" | sed -E 's/ in .*//')."
    echo
    echo "| | |"
    echo "| --- | --- |"
    grep -o 'RESULT .*' "$said" | sed -E 's/^RESULT ([^:]*): (.*)/| \1 | \2 |/' | sort
} >>"$page"
