#!/bin/sh
# Runs `albef serve --gateway` in the container: HTTP on 8000, gRPC on 8001, both with TLS and tokens; metrics on 8002.
#   MODEL_REPOSITORY  folder or s3://...
#   SECRETS           folder with tls.crt, tls.key and tokens
#   CACHE_BYTES       size of the cache of encoded images
#   EXIT_TIMEOUT      seconds for requests in progress when stopping; the container needs a few more to stop
# Further arguments are passed to `albef serve`.
set -eu
secrets="${SECRETS:-/run/secrets}"
exec python3 -m albef.cli serve \
  --repository="${MODEL_REPOSITORY:-/models}" \
  --gateway \
  --address=0.0.0.0 \
  --metrics-address=0.0.0.0 \
  --tls-cert="$secrets/tls.crt" \
  --tls-key="$secrets/tls.key" \
  --tokens="$secrets/tokens" \
  --cache-bytes="${CACHE_BYTES:-268435456}" \
  --grace="${EXIT_TIMEOUT:-15}" \
  "$@"
