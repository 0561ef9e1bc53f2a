#!/usr/bin/env bash
# Prefect and MLflow in the browser, on loopback alone, until Ctrl-C.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.venv/bin:$PATH"
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION="${MLFLOW_SERVER_ENABLE_JOB_EXECUTION:-false}" # eight more processes, for GenAI
store="${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}"
[ "$store" != none ] || store=sqlite:///mlflow.db # which tracks nothing, but there is something to see
prefect_port="${PREFECT_PORT:-4200}" mlflow_port="${MLFLOW_PORT:-5000}"
finish() { trap - INT TERM EXIT; kill $(jobs -p) 2>/dev/null || true; wait || true; }
trap finish EXIT
trap 'finish; exit 0' INT TERM
prefect server start --host 127.0.0.1 --port "$prefect_port" &
mlflow ui --backend-store-uri "$store" --host 127.0.0.1 --port "$mlflow_port" --workers 1 &
echo "Prefect: http://127.0.0.1:$prefect_port   MLflow: http://127.0.0.1:$mlflow_port   Ctrl-C stops both"
for page in artifacts/report/index.html artifacts/validated/docs/index.html; do
  if [ -f "$page" ]; then echo "$page: file://$PWD/$page"; fi
done
wait -n || { echo "One of the two did not start or has ended; is its port taken?" >&2; exit 1; }
