#!/usr/bin/env bash
# Runs every check of the project: lint, types, shell scripts, import contracts, tests. Installs what it needs.
# usage: scripts/test.sh [pytest arguments]
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
# shellcheck source=scripts/python_env.sh
source scripts/python_env.sh
prepare_python "[dev]" pytest

# One thread a process: the tests start several processes, and two cores are all we ask for.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
if [ $# -eq 0 ]; then
    "$PYTHON" -m ruff check .
    "$PYTHON" -m ruff format --check .
    "$PYTHON" -m mypy
    "$(dirname "$PYTHON")/shellcheck" -x --severity=warning scripts/*.sh slurm/*.sh slurm/*.sbatch tests/cluster/local-slurm .ci/run
    PYTHONPATH=$ROOT "$PYTHON" -c 'import sys; from importlinter.cli import lint_imports_command as run; sys.argv[0] = "lint-imports"; run()' --config setup.cfg
fi
if [ $# -gt 0 ]; then
    exec "$PYTHON" -m pytest "$@"
fi
# Two halves that take about as long, one beside the other. What starts whole runs on this machine is in one of them
# alone: it waits for them with time limits.
BESIDE=(tests/cluster tests/learning tests/unit/{batch_system,emulator,jobs,replay,training})
report=$(mktemp)
trap 'rm -f "$report"; [ -z "${beside:-}" ] || { kill "$beside" && wait "$beside"; } 2>/dev/null' EXIT
"$PYTHON" -m pytest "${BESIDE[@]}" >"$report" 2>&1 &
beside=$!
status=0
"$PYTHON" -m pytest "${BESIDE[@]/#/--ignore=}" || status=$?
wait "$beside" || status=$?
echo "${BESIDE[*]}:"
cat "$report"
exit "$status"
