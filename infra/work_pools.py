"""Create the work pools of the deployments on the Prefect server at ``PREFECT_API_URL``. Idempotent."""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from pathlib import Path


def main() -> None:
    """Create or update the pools.

    Raises:
        SystemExit: If no server answers.
    """
    url = os.environ["PREFECT_API_URL"]
    try:
        urllib.request.urlopen(f"{url}/health", timeout=5).read()
    except OSError:
        sys.exit(f"No Prefect server answers at {url}; start one with: make ui")

    # Imported late: callers try again until the server answers.
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.workers.process import ProcessWorker

    process = ProcessWorker.get_default_base_job_template()
    kubernetes = json.loads(Path(__file__).with_name("k8s").joinpath("prefect/job-template.json").read_text("utf-8"))
    pools = (
        WorkPoolCreate(name="local", type="process", base_job_template=process),
        # One run at a time on a GPU machine. Runs wait until a worker of this pool is started.
        WorkPoolCreate(name="gpu", type="process", base_job_template=process, concurrency_limit=1),
        # The worker of this pool (package prefect-kubernetes) runs in the cluster and creates jobs from this template.
        WorkPoolCreate(name="kubernetes", type="kubernetes", base_job_template=kubernetes),
    )
    with get_client(sync_client=True) as client:
        for pool in pools:
            client.create_work_pool(pool, overwrite=True)


if __name__ == "__main__":
    main()
