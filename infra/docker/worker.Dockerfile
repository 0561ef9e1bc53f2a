# Python environment of the project for the Prefect server, the Prefect worker, MLflow and Ray clusters on Kubernetes,
# whose probes call wget and whose jobs need ray[default]; on GPUs, torch and Triton call a C compiler. The checkout is
# mounted at /checkout, because DVC needs its git repository and writes results into it.
#
#   docker build -f infra/docker/worker.Dockerfile -t albef-project:0.1.0 .
FROM python:3.12-slim-bookworm

LABEL org.opencontainers.image.title="albef-project" \
      org.opencontainers.image.description="Environment of the ALBEF pipeline, with Prefect and MLflow" \
      org.opencontainers.image.licenses="Apache-2.0"

RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ git libc6-dev wget \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --home-dir /var/lib/albef --uid 1000 albef \
 && install -d -o albef -g albef /var/lib/albef/.prefect /mlflow /checkout

WORKDIR /usr/local/albef
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY albef albef
RUN pip install --no-cache-dir uv==0.13.9 \
 && uv pip install --system --no-cache -c constraints.txt -b constraints.txt \
      '.[pipeline,flows,tune,tracking,validation,report,export,serving]' 'ray[default]'

# No telemetry. PYTHONPATH puts the mounted checkout before the installed copy. The checkout belongs to a user of the
# host, so git needs safe.directory.
ENV DO_NOT_TRACK=1 \
    DVC_NO_ANALYTICS=1 \
    GX_ANALYTICS_ENABLED=false \
    HF_HUB_DISABLE_TELEMETRY=1 \
    MLFLOW_DISABLE_TELEMETRY=true \
    ORT_DISABLE_TELEMETRY=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    RAY_USAGE_STATS_ENABLED=0 \
    PYTHONUNBUFFERED=1 \
    PYTHONPATH=/checkout \
    GIT_CONFIG_COUNT=1 \
    GIT_CONFIG_KEY_0=safe.directory \
    GIT_CONFIG_VALUE_0=/checkout

USER 1000:1000
WORKDIR /checkout
CMD ["prefect", "worker", "start", "--pool", "local"]
