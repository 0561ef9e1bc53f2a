#!/usr/bin/env bash
# Creates the work pools and deploys the flows to the Prefect server at PREFECT_API_URL. Idempotent.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.venv/bin:$PATH"
export PREFECT_API_URL="${PREFECT_API_URL:-http://127.0.0.1:4200/api}"
python infra/work_pools.py
prefect --no-prompt deploy --prefect-file infra/prefect.yaml --all
cat <<TEXT
Deployed. Start a worker in this folder, and a run in another terminal:
  PREFECT_API_URL=$PREFECT_API_URL .venv/bin/prefect worker start --pool local
  PREFECT_API_URL=$PREFECT_API_URL .venv/bin/prefect deployment run pretrain/local
TEXT
