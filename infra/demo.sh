#!/usr/bin/env bash
# The pipeline, then questions to the served models. The first is up to you: QUESTION="a cat above a green book".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.venv/bin:$PATH"
question="${QUESTION:-a dog left of a red apple}"
times="$(mktemp)" served="$(mktemp)" server=""

finish() {
  for group in $(jobs -p); do kill -- "-$group" 2>/dev/null || true; done # trainings save what they have
  if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
  rm -f "$times" "$served"
}
trap finish EXIT

# Progress bars go to stderr and stay as they are; stdout passes by here, with a clock beside it.
clock() { # name of the lane
  local line
  while IFS= read -r line; do
    printf '%s\n' "$line"
    case "$line" in
    "Running stage '"*) line="${line#*\'}" && printf '%s %s %s\n' "$1" "$SECONDS" "${line%\'*}" >>"$times" ;;
    esac
  done
  printf '%s %s end\n' "$1" "$SECONDS" >>"$times"
}

# Tasks do not wait for one another: two at a time, each on half of the cores, are done sooner than one after the other.
# Single items, for DVC locks what a stage reads and writes, and would lock the stages before it as well.
lane() { # its stages, in order
  OMP_NUM_THREADS="$threads" PYTHONUNBUFFERED=1 dvc --wait-for-lock repro --single-item "$@" | clock "${!#}"
}

set -m # each lane a process group, so that an interrupt ends all of it
cores="$(nproc)"
threads="${OMP_NUM_THREADS:-$(((cores + 1) / 2))}"
PYTHONUNBUFFERED=1 dvc repro pretrain | clock first
for task in nlvr2 entailment vqa retrieval grounding; do # the longest first
  stages=("finetune@$task" "evaluate@$task" "export@$task")
  case "$task" in
  nlvr2) stages=(text_assignment "${stages[@]}") ;;
  entailment | vqa | retrieval) stages=("tune@$task" "${stages[@]}") ;;
  esac
  [ "$(jobs -rp | wc -l)" -lt 2 ] || wait -n
  lane "${stages[@]}" &
done
while [ -n "$(jobs -rp)" ]; do wait -n; done
set +m
PYTHONUNBUFFERED=1 dvc repro | clock last

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
picture=artifacts/data/images/test/000000.png
echo
echo "Of $picture: \"what is right of the banana\""
albef ask vqa --image "$picture" "what is right of the banana" -k 3 --url "$address"
echo "\"a green book is left of a banana\""
albef ask entailment --image "$picture" "a green book is left of a banana" --url "$address"
echo "\"the green book on the right\""
albef ask grounding --image "$picture" "the green book on the right" --url "$address"

echo
if grep -qv ' end$' "$times"; then
  echo "Time by stage (two tasks at a time):"
  sort -s -k1,1 "$times" | awk '
    lane == $1 { printf "%d  %-22s %5d s\n", start, stage, $2 - start } { lane = $1; start = $2; stage = $3 }
  ' | sort -n | cut -d " " -f 2-
fi
echo "Report:     file://$PWD/artifacts/report/index.html"
echo "Data docs:  file://$PWD/artifacts/validated/docs/index.html"
echo "Ask more:   .venv/bin/albef serve --repository artifacts/repository"
echo "            .venv/bin/albef ask retrieval \"two tigers on green stripes\""
