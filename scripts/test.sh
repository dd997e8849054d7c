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
# Many of the tests start programs: compiled once, these start sooner.
unset PYTHONDONTWRITEBYTECODE
# Three parts, side by side: the tests of the batch system mostly wait for it. What starts whole runs on this machine is
# in one part alone, as it waits for them with time limits.
BESIDE=("tests/cluster tests/unit/batch_system"
    "tests/learning tests/unit/emulator tests/unit/jobs tests/unit/replay tests/unit/training")
SLOWEST=(--durations=20 --durations-min=5)
reports=$(mktemp -d)
pids=() paths=() ignored=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait; rm -rf "$reports"' EXIT
for index in "${!BESIDE[@]}"; do
    read -ra paths <<<"${BESIDE[index]}"
    "$PYTHON" -m pytest "${SLOWEST[@]}" "${paths[@]}" >"$reports/$index" 2>&1 &
    pids+=($!)
    ignored+=("${paths[@]/#/--ignore=}")
done
status=0
"$PYTHON" -m pytest "${SLOWEST[@]}" "${ignored[@]}" || status=$?
for index in "${!BESIDE[@]}"; do
    wait "${pids[index]}" || status=$?
    echo "${BESIDE[index]}:"
    cat "$reports/$index"
done
exit "$status"
