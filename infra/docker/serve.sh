#!/bin/sh
# Starts Triton in the container like `albef serve --explicit`: HTTP on 8000, gRPC on 8001, metrics on 8002.
#   MODEL_REPOSITORY  folder or s3://...
#   CACHE_BYTES       size of the response cache, which stores image encodings
#   EXIT_TIMEOUT      seconds for pending requests when stopping; the container needs a few more to stop
# Further arguments are passed to tritonserver.
set -eu
exec tritonserver \
  --model-repository="${MODEL_REPOSITORY:-/models}" \
  --model-control-mode=explicit \
  --load-model='*' \
  --strict-readiness=false \
  --disable-auto-complete-config \
  --cache-config="local,size=${CACHE_BYTES:-268435456}" \
  --exit-timeout-secs="${EXIT_TIMEOUT:-15}" \
  "$@"
