#!/usr/bin/env bash
# The pipeline, then one question to the served model. PARAMS of the question: QUESTION="a cat above a green book".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.venv/bin:$PATH"
question="${QUESTION:-a dog left of a red apple}"
times="$(mktemp)" served="$(mktemp)" server=""

finish() {
  if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
  rm -f "$times" "$served"
}
trap finish EXIT

# Progress bars go to stderr and stay as they are; stdout passes by here, with a clock beside it.
PYTHONUNBUFFERED=1 dvc repro "$@" | while IFS= read -r line; do
  printf '%s\n' "$line"
  case "$line" in "Running stage '"*) stage="${line#*\'}"; printf '%s %s\n' "$SECONDS" "${stage%\'*}" >>"$times" ;; esac
done
printf '%s end\n' "$SECONDS" >>"$times"

echo
echo "Starting the inference server ..."
albef serve --repository artifacts/repository --http-port 0 --grpc-port 0 --metrics-port 0 >"$served" &
server=$!
until grep -q '^serving ' "$served"; do
  if ! kill -0 "$server" 2>/dev/null; then server=""; echo "The inference server did not start." >&2; exit 1; fi
  sleep 0.2
done
address="$(sed -n 's/^serving .*gRPC \([^, ]*\),.*/\1/p' "$served")"
echo "Question, over gRPC: \"$question\""
albef ask retrieval "$question" --url "$address"

echo
if [ "$(wc -l <"$times")" -gt 1 ]; then
  echo "Time by stage:"
  awk 'NR > 1 { printf "  %-22s %5d s\n", stage, $1 - start } { start = $1; stage = $2 }' "$times"
fi
echo "Report:     file://$PWD/artifacts/report/index.html"
echo "Data docs:  file://$PWD/artifacts/validated/docs/index.html"
echo "Ask more:   .venv/bin/albef serve --repository artifacts/repository"
echo "            .venv/bin/albef ask retrieval \"two tigers on green stripes\""
