#!/usr/bin/env bash
# Tests the compiled attention kernel: on a CUDA device forward and backward, in float32 and bfloat16,
# without one on the CPU, as far as torch compiles it there (forward). Then the recurrent mixers by
# flash-linear-attention, where a device and the extra fla are there. Arguments go to pytest.
# PYTHON=/path/to/python uses an environment with lexp[dev] and a CUDA build of torch in it instead of
# making .venv. Takes some minutes, nearly all of which compiling.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${PYTHON:-}" ]; then
    source scripts/setup.sh
    PYTHON=$PWD/.venv/bin/python
fi
export LEXP_COMPILED=1
exec "$PYTHON" -m pytest tests/attention/test_flex.py tests/model/test_recurrence_kernels.py "$@"
