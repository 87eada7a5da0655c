#!/usr/bin/env bash
# Makes .venv in the repository and installs lexp into it, unless that is done already.
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
    echo "installing into .venv (once; a few minutes where torch has to be downloaded)" >&2
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    # Linux's default build of torch brings several GB of CUDA libraries. Without an NVIDIA GPU the
    # 200 MB CPU build is enough; where its index cannot be reached, what pip finds is used.
    cpu_index=https://download.pytorch.org/whl/cpu
    if [ "$(uname)" = Linux ] && ! command -v nvidia-smi >/dev/null \
        && .venv/bin/python -c "import urllib.request as r; r.urlopen('$cpu_index/torch/', timeout=10)" 2>/dev/null; then
        .venv/bin/python -m pip install --quiet --disable-pip-version-check "torch==2.13.0" --index-url "$cpu_index"
    else
        .venv/bin/python -m pip install --quiet --disable-pip-version-check "torch==2.13.0"
    fi
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
    touch "$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
