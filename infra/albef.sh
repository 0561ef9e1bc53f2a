#!/bin/sh
# Run the command line of this checkout's environment (.venv), else the one on PATH; stages of dvc.yaml use it, so that
# `.venv/bin/dvc repro` works in a shell that has not activated the environment.
albef="$(dirname "$0")/../.venv/bin/albef"
if [ ! -x "$albef" ]; then
  albef=albef
  command -v albef >/dev/null || {
    echo "albef: not found in .venv or on PATH; run 'make setup', or activate an environment that has it" >&2
    exit 127
  }
fi
exec "$albef" "$@"
