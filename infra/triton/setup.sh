#!/usr/bin/env bash
# Builds the local Triton runtime in .runtime/ unless it is up to date. UV sets the path of uv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec "${PYTHON:-.venv/bin/python}" -m albef.serving.runtime "$@"
