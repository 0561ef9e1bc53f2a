#!/usr/bin/env bash
# Runs the pipeline, serves the models and sends example requests. QUESTION="a cat above a green book" sets the first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.venv/bin:$PATH"
question="${QUESTION:-a dog left of a red apple}"
times="$(mktemp)" served="$(mktemp)" server=""

# Processes of a killed run take a moment to vanish, and DVC refuses to run while one that held a lock exists.
for _ in $(seq 60); do
  held=""
  for pid in $(grep -os '"pid": [0-9]*' .dvc/tmp/rwlock | grep -o '[0-9]*'); do [ ! -d "/proc/$pid" ] || held=1; done
  [ -n "$held" ] || break
  sleep 0.5
done

# Where git does not track dvc.lock, the demo leaves the checkout clean: it keeps its own record of results.
kept=.dvc/tmp/demo.lock tracked="$(git ls-files dvc.lock)"
if [ -z "$tracked" ] && [ ! -f dvc.lock ] && [ -f "$kept" ]; then cp "$kept" dvc.lock; fi

finish() {
  for group in $(jobs -p); do kill -- "-$group" 2>/dev/null || true; done # training saves a checkpoint
  if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
  rm -f "$times" "$served"
  if [ -z "$tracked" ] && [ -f dvc.lock ]; then mv dvc.lock "$kept"; fi
}
trap finish EXIT

# Copies stdout and records when each stage starts; progress bars go to stderr and are not affected.
clock() { # LANE
  local line
  while IFS= read -r line; do
    printf '%s\n' "$line"
    case "$line" in
    "Running stage '"*) line="${line#*\'}" && printf '%s %s %s\n' "$1" "$SECONDS" "${line%\'*}" >>"$times" ;;
    esac
  done
  printf '%s %s end\n' "$1" "$SECONDS" >>"$times"
}

# Tasks are independent: running two at a time, each on half of the cores, is faster than running them in sequence.
# --single-item, because DVC would otherwise lock the preceding stages too.
lane() { # STAGE...
  OMP_NUM_THREADS="$threads" PYTHONUNBUFFERED=1 dvc --wait-for-lock repro --single-item "$@" </dev/null | clock "${!#}"
}

set -m # one process group per lane, so that an interrupt ends all its processes
cores="$(nproc)"
threads="${OMP_NUM_THREADS:-$(((cores + 1) / 2))}"
tasks() { # lines of task and the stage whose model it starts from; those with a stage of their own before them first
  python - <<'PY'
from albef.config import load
tasks = {name: task.init for name, task in vars(load("params.yaml").tasks).items() if task is not None}
for name in sorted(tasks, key=lambda name: tasks[name] == "pretrain"):
    print(name, tasks[name])
PY
}
PYTHONUNBUFFERED=1 dvc repro pretrain | clock first
while read -r task init; do
  stages=("tune@$task" "finetune@$task" "evaluate@$task" "export@$task")
  [ "$init" = pretrain ] || stages=("$init" "${stages[@]}")
  [ "$(jobs -rp | wc -l)" -lt 2 ] || wait -n
  lane "${stages[@]}" &
done < <(tasks)
while [ -n "$(jobs -rp)" ]; do wait -n; done
set +m
PYTHONUNBUFFERED=1 dvc repro | clock last

echo
registered=scratch/registered # `make clean` removes it
if [ ! -e "$registered" ] || [ artifacts/repository -nt "$registered" ]; then
  echo "Registering the models in MLflow ..."
  from=(--repository artifacts/repository --evaluate artifacts/evaluate --lists artifacts/validated/lists)
  if albef registry register "${from[@]}" --models artifacts/finetune >/dev/null && albef registry compare >/dev/null; then
    albef registry promote >/dev/null
    mkdir -p scratch && touch "$registered"
  fi
fi

echo "Starting the inference server ..."
albef serve --repository artifacts/repository --http-port 0 --grpc-port 0 --metrics-port 0 >"$served" &
server=$!
until grep -q '^serving ' "$served"; do
  if ! kill -0 "$server" 2>/dev/null; then server=""; echo "The inference server did not start." >&2; exit 1; fi
  sleep 0.2
done
address="$(sed -n 's/^serving .*gRPC \([^, ]*\),.*/\1/p' "$served")"
questions="$(python infra/questions.py "$question")"
while IFS=$'\t' read -r endpoint image text; do
  about=() && [ "$image" = - ] || about=(--image "$image")
  echo
  echo "$endpoint, over gRPC: \"$text\"${about[1]:+ about ${about[1]}}"
  albef ask "$endpoint" "${about[@]}" "$text" --url "$address" </dev/null
done <<<"$questions"

echo
cat artifacts/report/summary.txt
echo
if grep -qv ' end$' "$times"; then
  echo "Time per stage (two tasks at a time):"
  sort -s -k1,1 "$times" | awk '
    lane == $1 { printf "%d  %-22s %5d s\n", start, stage, $2 - start } { lane = $1; start = $2; stage = $3 }
  ' | sort -n | cut -d " " -f 2-
fi
echo "Report:     file://$PWD/artifacts/report/index.html"
echo "Validation: file://$PWD/artifacts/validated/docs/index.html"
echo "Web page:   .venv/bin/albef demo, then open http://127.0.0.1:7860"
echo "Try more:   .venv/bin/albef serve --repository artifacts/repository"
echo "            .venv/bin/albef ask retrieval \"two tigers on green stripes\""
