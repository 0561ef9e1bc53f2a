#!/bin/sh
# Run the command line of this checkout's environment (.venv), else the one on PATH; stages of dvc.yaml use it, so that
# `.venv/bin/dvc repro` works in a shell that has not activated the environment.
root="$(cd "$(dirname "$0")/.." && pwd)"
case "$root" in
# An experiment runs in a temporary copy of the checkout. Runs, and the state of training that is killed, must outlive it.
*/.dvc/tmp/exps/*)
  root="${root%%/.dvc/tmp/exps/*}"
  export ALBEF_WORK_DIR="${ALBEF_WORK_DIR:-$root/scratch}"
  export MLFLOW_TRACKING_URI="${MLFLOW_TRACKING_URI:-sqlite:///$root/mlflow.db}"
  ;;
esac
albef="$root/.venv/bin/albef"
if [ ! -x "$albef" ]; then
  albef=albef
  command -v albef >/dev/null || {
    echo "albef: not found in .venv or on PATH; run 'make setup', or activate an environment that has it" >&2
    exit 127
  }
fi
exec "$albef" "$@"
