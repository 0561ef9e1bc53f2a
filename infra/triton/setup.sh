#!/usr/bin/env bash
# Builds the local Triton runtime below .runtime/ (nothing to do if it is up to date). UV names the uv to use.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec "${PYTHON:-.venv/bin/python}" -m albef.serving.runtime "$@"
