#!/usr/bin/env bash
# Sets up .venv with other people's implementations, then compares ours with them: same weights, same
# outputs. Arguments go to pytest; --install installs only. Needs about 160 MB on top of scripts/test.sh;
# safe to run again.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

stamp=".venv/.peers"
if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ] || [ scripts/test_peers.sh -nt "$stamp" ]; then
    echo "installing the peers into .venv (once; about half a minute)" >&2
    python -m pip install --quiet --disable-pip-version-check -e '.[dev,peers]'
    # What they ask for besides torch and einops (torchvision, triton) none of the modules compared
    # imports.
    python -m pip install --quiet --disable-pip-version-check --no-deps "torchscale==0.3.0" "fla-core==0.6.0"
    touch "$stamp"
fi
[ "${1:-}" != --install ] || exit 0
# Here a peer that is missing is a failure, elsewhere its tests are skipped.
export LEXP_PEERS=1
exec pytest tests/peers "$@"
