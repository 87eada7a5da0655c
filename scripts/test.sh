#!/usr/bin/env bash
# Sets up .venv, then checks style and types and runs the tests. Arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
ruff check .
ruff format --check .
mypy
exec pytest "$@"
