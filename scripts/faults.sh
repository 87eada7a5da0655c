#!/usr/bin/env bash
# The long suite of faults: tests/faults in pieces, with LEXP_FAULTS_KILLS (1000) kills at random steps.
# A piece that has passed at this commit is not run again: started anew, the script goes on.
# Writes what it found below the heading "Last results" of docs/faults.md. Arguments go to pytest.
set -uo pipefail
cd "$(dirname "$0")/.."
export LEXP_FAULTS_KILLS="${LEXP_FAULTS_KILLS:-1000}" OMP_NUM_THREADS=1
python="${PYTHON:-.venv/bin/python}"
page=docs/faults.md
commit=$(git rev-parse --short HEAD)
git diff --quiet HEAD -- . ":!$page" || commit+=-changed
folder="${LEXP_FAULTS_FOLDER:-outputs/.faults}/$commit"
[[ $commit != *-changed ]] || rm -rf "$folder" # of which change, nobody knows
mkdir -p "$folder"

pieces=()
for file in tests/faults/test_*.py; do
    pieces+=("$file")
done
for part in $(seq $(((LEXP_FAULTS_KILLS + 99) / 100))); do
    pieces+=("tests/faults/test_kills.py::test_sigkill_at_many_random_steps[$part]")
done

n_failed=0
for piece in "${pieces[@]}"; do
    name=$(basename "$piece" | tr -c 'a-zA-Z0-9_\n' '-')
    [ ! -e "$folder/$name.passed" ] || continue
    echo "$(date +%T) $piece" >&2
    started=$SECONDS
    few=()
    [[ $piece == *::* ]] || few=(-k "not many_random")
    if "$python" -m pytest "$piece" -s "${few[@]}" "$@" >"$folder/$name.log" 2>&1; then
        echo "$((SECONDS - started))" >"$folder/$name.passed"
    else
        n_failed=$((n_failed + 1))
        tail -n 20 "$folder/$name.log" >&2
    fi
done
if [ $n_failed -gt 0 ]; then
    echo "$n_failed of ${#pieces[@]} pieces failed: see $folder" >&2
    exit 1
fi

sed -i '/^## Last results$/q' "$page"
{
    echo
    echo "$(date -u +%F), commit $commit, $("$python" --version), torch" \
        "$("$python" -c 'import torch; print(torch.__version__)'), $(nproc --all) CPU cores, in all" \
        "$((($(cat "$folder"/*.passed | paste -sd+)) / 60)) minutes; $(cat "$folder"/*.log |
            grep -oE '^[0-9]+ passed' | awk '{n += $1} END {print n}') tests, all passed."
    echo
    echo "| | |"
    echo "| --- | --- |"
    grep -hoE 'RESULT random kills, part .*' "$folder"/*.log | awk '
        { kills += $6; inside += $9 }
        END {
            printf "| SIGKILL at random steps | %d, of which %d inside a save: 0 lost, 0 bits ", kills, inside
            printf "different (at most %.1f %% per kill at 95 %%) |\n", 300 / kills
        }'
    grep -ho 'RESULT .*' "$folder"/*.log | grep -v 'random kills' |
        sed -E 's/^RESULT ([^:]*): (.*)/| \1 | \2 |/' | sort
} >>"$page"
