#!/usr/bin/env bash
# Creates the work pools and deploys the flows to the Prefect server at PREFECT_API_URL. Idempotent.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.venv/bin:$PATH"
export PREFECT_API_URL="${PREFECT_API_URL:-http://127.0.0.1:4200/api}"
if ! python - <<'PY'
import os, sys, urllib.request
try:
    urllib.request.urlopen(os.environ["PREFECT_API_URL"] + "/health", timeout=5).read()
except OSError:
    sys.exit(1)
PY
then
  echo "No Prefect server answers at $PREFECT_API_URL; start one with: make ui" >&2
  exit 1
fi
prefect --no-prompt work-pool create local --type process --overwrite
# One run at a time on a GPU machine. Runs wait until a worker of this pool is started.
prefect --no-prompt work-pool create gpu --type process --overwrite
prefect --no-prompt work-pool set-concurrency-limit gpu 1
# The worker of this pool (package prefect-kubernetes) runs in the cluster and creates jobs from this template.
prefect --no-prompt work-pool create kubernetes --type kubernetes --overwrite \
  --base-job-template infra/k8s/prefect/job-template.json
prefect --no-prompt deploy --prefect-file infra/prefect.yaml --all
cat <<TEXT
Deployed. Start a worker in this folder, and a run in another terminal:
  PREFECT_API_URL=$PREFECT_API_URL .venv/bin/prefect worker start --pool local
  PREFECT_API_URL=$PREFECT_API_URL .venv/bin/prefect deployment run pretrain/local
TEXT
