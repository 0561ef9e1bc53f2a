#!/usr/bin/env bash
# Runs a Prefect server with all deployments, a worker in this folder, and MLflow on loopback until Ctrl-C.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.venv/bin:$PATH"
prefect_port="${PREFECT_PORT:-4200}"
export PREFECT_API_URL="http://127.0.0.1:$prefect_port/api"
export MLFLOW_UI="http://127.0.0.1:${MLFLOW_PORT:-5000}" # where runs link to
log="$(mktemp)" worker=""
export ALBEF_ORCHESTRATE="$$" # identifies the worker's runs even if the worker dies
set -m # one process group per child, so that Ctrl-C reaches only this script and runs can end before server and worker
finish() {
  trap '' INT TERM
  trap - EXIT
  if [ -n "$worker" ]; then python infra/stop_worker.py "$worker" "ALBEF_ORCHESTRATE=$$" || true; fi
  kill $(jobs -p) 2>/dev/null || true
  wait || true
  rm -f "$log"
}
trap finish EXIT
trap 'finish; exit 0' INT TERM

PREFECT_PORT="$prefect_port" infra/ui.sh &
ui=$!
# Each attempt to deploy starts Python, which would slow down the start of the server.
until (: <"/dev/tcp/127.0.0.1/$prefect_port") 2>/dev/null; do
  kill -0 "$ui" 2>/dev/null || { wait "$ui" || true; exit 1; }
  sleep 0.2
done
until infra/deploy.sh >"$log" 2>&1; do
  kill -0 "$ui" 2>/dev/null || { wait "$ui" || true; exit 1; }
  grep -q "No Prefect server answers" "$log" || { cat "$log" >&2; exit 1; }
  sleep 0.5
done
prefect worker start --pool local --name "$(hostname)" &
worker=$!
echo
echo "Deployed; the worker is running. Prefect: http://127.0.0.1:$prefect_port"
echo "  PREFECT_API_URL=$PREFECT_API_URL .venv/bin/prefect deployment run pipeline/local"
wait -n || { echo "The server or the worker has stopped unexpectedly" >&2; exit 1; }
