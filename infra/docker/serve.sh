#!/bin/sh
# Starts Triton as `albef serve --explicit` does, in the container: HTTP on 8000, gRPC on 8001, metrics on 8002.
#   MODEL_REPOSITORY  a folder, or s3://...
#   CACHE_BYTES       of the response cache, which keeps encodings of images
#   EXIT_TIMEOUT      seconds for requests under way when stopping; give the container a few more
# Further arguments are passed on.
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
