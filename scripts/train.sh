#!/usr/bin/env bash
# Trains on this machine, then renders videos and maps: about five minutes on the embedded cartridge, hours on Red (--rom).
# Typed again, it goes on where it stopped.
# usage: scripts/train.sh [--config FILE] [--run-name NAME] [--runs FOLDER] [--rom ROM] [--key value ...]
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/python_env.sh
source "$ROOT/scripts/python_env.sh"
prepare_python "" torch

rom=
show=
render=()
arguments=("$@")
for ((i = 0; i < ${#arguments[@]}; i++)); do
    case ${arguments[i]} in
        --rom) rom=${arguments[i + 1]:-} ;;
        --rom=*) rom=${arguments[i]#*=} ;;
        --dry-run | --dry_run | -h | --help | --version) show=yes ;;
    esac
done
[ -z "$rom" ] || render=(--rom "$rom")

train=(--default-config quickstart "$@")
[ -z "$show" ] || exec "$PYTHON" -m cluster_rl.train_cluster "${train[@]}"

echo "Training: five minutes on the cartridge, hours on Red, or --max_runtime_seconds; Ctrl-C ends it, with a checkpoint"
status=0
"$PYTHON" -m cluster_rl.train_cluster "${train[@]}" || status=$?
# 85: the time is up and the run goes on with the next job.
[ $status -eq 0 ] || [ $status -eq 85 ] || exit $status

# Its last line: before it comes which config was taken.
run=$("$PYTHON" -c 'import sys; from cluster_rl.jobs.presets import run_of; print(run_of(sys.argv[1:]).path)' "${train[@]}" | tail -n 1)
replay=("$PYTHON" -m cluster_rl.replayer --logs "$run/episode_logs" --out "$run/videos" --fps 30 "${render[@]}")
if compgen -G "$run/episode_logs/*" >/dev/null; then
    echo "Rendering the newest episodes"
    "${replay[@]}" --limit 12
else
    echo "No episode was recorded, so there is nothing to render"
fi
done_words='Done.'
! grep -qs '^  "updates": 0,' "$run/progress.json" || done_words='Nothing was learned: progress.json says why. Go on with the same command.'
cat <<END

$done_words Look at
  $run/progress.json        what was reached, and why each job stopped
  $run/videos/index.html    one MP4 an episode, listed here; maps/ has where the agent has been
  $run/online_params.pt     the newest parameters, averaged over some 200 updates
  $run/tensorboard/         curves: $PYTHON -m tensorboard.main --logdir $run/tensorboard
Go on:               scripts/train.sh${arguments[@]+$(printf ' %q' "${arguments[@]}")}
All the episodes:    $(printf '%q ' "${replay[@]}")
Other commands:      source $(dirname "$PYTHON")/activate, then python -m cluster_rl.evaluate ... and so on
END
