#!/usr/bin/env bash
# Makes .venv in the repository and installs lexp into it, unless that is done already; with uv
# where it is there, else with pip.
# Sourced by the other scripts: afterwards `lexp` and `python` are those of .venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-}
if [ -z "$python" ]; then
    for candidate in python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
            python=$candidate
            break
        fi
    done
fi
[ -n "$python" ] || { echo "lexp needs Python 3.11 to 3.13; name one: PYTHON=/path/to/python bash $0" >&2; exit 1; }

# Installed again only when what is to be installed has changed.
stamp=".venv/.installed"
if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
    if command -v uv >/dev/null; then
        # --seed: pip too, for whoever adds a package by hand.
        make=(uv venv --quiet --seed --python "$python") install=(uv pip install --quiet --python .venv/bin/python)
    else
        make=("$python" -m venv) install=(.venv/bin/python -m pip install --quiet --disable-pip-version-check)
    fi
    [ -x .venv/bin/python ] || "${make[@]}" .venv
    # Linux's default build of torch brings several GB of CUDA libraries. Without an NVIDIA GPU the
    # CPU build is enough; where its index cannot be reached, what the default index has is used.
    cpu_index=https://download.pytorch.org/whl/cpu index=() size="200 MB (CPU build)"
    if [ "$(uname)" = Linux ]; then
        if ! command -v nvidia-smi >/dev/null \
            && .venv/bin/python -c "import urllib.request as r; r.urlopen('$cpu_index/torch/', timeout=10)" 2>/dev/null; then
            index=(--index-url "$cpu_index")
        else
            size="3 GB (CUDA libraries included)"
        fi
    fi
    echo "installing into .venv, once, by ${install[0]##*/}: torch, about $size, and about 250 MB of other packages (1 to 4 minutes at 50 Mbit/s or more)" >&2
    "${install[@]}" "torch==2.13.0" ${index[@]+"${index[@]}"}
    "${install[@]}" -e '.[dev]'
    touch "$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
