#!/usr/bin/env bash
# Runs tests/slurm against a real SLURM, started for them on this machine. Arguments go to pytest.
# Needs root, and Debian's or Ubuntu's slurm-wlm and munge, which it installs where they are missing.
# PYTHON=/path/to/python uses an environment with lexp[dev,slurm] in it instead of making .venv.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${PYTHON:-}" ]; then
    source scripts/setup.sh
    PYTHON=$PWD/.venv/bin/python
    "$PYTHON" -c "import hydra_plugins.hydra_submitit_launcher" 2>/dev/null ||
        "$PYTHON" -m pip install --quiet --disable-pip-version-check -e '.[dev,slurm]'
fi
if ! command -v slurmctld >/dev/null || ! command -v slurmd >/dev/null || ! command -v munged >/dev/null; then
    echo "installing slurm-wlm and munge" >&2
    log=$(mktemp)
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends slurm-wlm munge; } >"$log" 2>&1 ||
        { cat "$log" >&2; echo "slurm-wlm and munge could not be installed" >&2; exit 1; }
fi
folder=$(mktemp -d /tmp/lexp-slurm.XXXXXX)
stop() { bash scripts/slurm_up.sh --stop "$folder"; sleep 0.5; rm -rf "$folder"; }
trap stop EXIT
environment=$(bash scripts/slurm_up.sh "$folder")
eval "$environment"
# Here a SLURM that is missing is a failure, elsewhere its tests are skipped.
LEXP_SLURM=1 "$PYTHON" -m pytest tests/slurm -m slurm "$@"
