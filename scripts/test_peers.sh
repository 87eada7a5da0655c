#!/usr/bin/env bash
# Sets up .venv with other people's implementations, then compares ours with them: same weights, same
# outputs. Arguments go to pytest; --install installs only. Needs about 260 MB on top of scripts/test.sh;
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
    # lm-evaluation-harness asks for scikit-learn and more (150 MB), which the tasks of the tests do not
    # import; accelerate and psutil are for its own hf model, the others for sacrebleu.
    python -m pip install --quiet --disable-pip-version-check --no-deps "lm_eval==0.4.13" \
        accelerate psutil sacrebleu portalocker colorama tabulate lxml
    touch "$stamp"
fi
[ "${1:-}" != --install ] || exit 0
# Here a peer that is missing is a failure, elsewhere its tests are skipped.
export LEXP_PEERS=1
exec pytest tests/peers "$@"
