#!/usr/bin/env bash
# Runs the web interfaces of Prefect and MLflow on loopback until Ctrl-C.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.venv/bin:$PATH"
# Job execution is for GenAI only and would start eight more processes.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION="${MLFLOW_SERVER_ENABLE_JOB_EXECUTION:-false}"
store="${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}"
[ "$store" != none ] || store=sqlite:///mlflow.db # tracking is off, but earlier runs can be viewed
prefect_port="${PREFECT_PORT:-4200}" mlflow_port="${MLFLOW_PORT:-5000}"
finish() { trap - INT TERM EXIT; kill $(jobs -p) 2>/dev/null || true; wait || true; }
trap finish EXIT
trap 'finish; exit 0' INT TERM
prefect server start --host 127.0.0.1 --port "$prefect_port" &
mlflow ui --backend-store-uri "$store" --host 127.0.0.1 --port "$mlflow_port" --workers 1 &
echo "Prefect: http://127.0.0.1:$prefect_port   MLflow: http://127.0.0.1:$mlflow_port/#/experiments?workflowType=machine_learning   Ctrl-C stops both"
for page in artifacts/report/index.html artifacts/validated/docs/index.html; do
  if [ -f "$page" ]; then echo "$page: file://$PWD/$page"; fi
done
wait -n || { echo "Prefect or MLflow did not start or has stopped; check whether its port is in use" >&2; exit 1; }
