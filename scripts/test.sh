#!/usr/bin/env bash
# Sets up .venv, then checks style and types and runs the tests. Arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
ruff check .
ruff format --check .
mypy
# As many processes as there are cores, to four; each computes by one thread, and none is idle at the end.
export OMP_NUM_THREADS=1
exec pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal "$@"
