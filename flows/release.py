"""Flow ``release``: promotion of new models that are no worse."""

from __future__ import annotations

import json

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner

from flows import _dvc, _show


@task(task_run_name="{name}", cache_policy=NO_CACHE)
def step(name: str, arguments: list[str]) -> str:
    """Run an `albef` command, return its output, and publish a failure.

    Raises:
        StageError: If the command fails.
    """
    try:
        return _dvc.albef(name, *arguments)
    except _dvc.StageError as error:
        create_markdown_artifact(f"Refused:\n\n```\n{error}\n```", key="refused")
        raise


def _table(key: str, output: str, description: str) -> None:
    """Publish the rows printed by a command of ``albef registry``."""
    flat = [{key: value for key, value in row.items() if not isinstance(value, dict)} for row in json.loads(output)]
    create_table_artifact(key=key, table=flat, description=description)


@flow(name="release", task_runner=ThreadPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
def release(
    served: str,
    url: str = "127.0.0.1:8001",
    new: str = "artifacts/repository",
    probes: str | None = None,
    refresh: bool = True,
) -> int:
    """Register, compare with the champion, load, probe and promote.

    Each step publishes an artifact. The server must run ``albef serve --explicit`` on ``served``. A refused or failed
    release changes neither the champion's alias nor the served version.

    Args:
        served: Model repository of the server.
        url: gRPC address of the server.
        new: Model repository to release.
        probes: JSON list of requests that the new version must answer.
        refresh: Reproduce the pipeline's evaluations and ``artifacts/repository`` first.

    Returns:
        The version that is now served.

    Raises:
        StageError: If the release is refused or fails.
    """
    if refresh:
        _show.publish(_dvc.run("repository", *_dvc.stages_of("evaluate")))
    lists = ["--lists", "artifacts/validated/lists"]
    models = ["--repository", new, "--evaluate", "artifacts/evaluate", "--models", "artifacts/finetune"]
    registered = step("register", ["registry", "register", *models, *lists])
    _table("challengers", registered, "Registered in MLflow with the alias challenger")

    verdicts = step("compare", ["registry", "compare", "--url", url, "--images", "artifacts/data", *lists])
    _table("verdicts", verdicts, "Challengers compared with champions on the test split")

    server = ["--repository", served, "--url", url]
    output = step("load", ["release", *server, "--new", new, *(["--probes", probes] if probes else [])])
    version = int(output.split()[1])  # "version N answers"
    create_markdown_artifact(f"Version {version} is served at {url} and has passed its probes.", key="served")

    try:
        promoted = step("promote", ["registry", "promote", "--triton-version", str(version)])
    except BaseException:
        step("rollback", ["rollback", *server])
        raise
    _table("champions", promoted, f"Served as version {version}, with the alias champion")
    return version
