"""Flow ``release``: what the pipeline made takes over from what is served, if it is no worse."""

from __future__ import annotations

import json

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner

from flows import _dvc, _show

EVALUATED = ("retrieval", "vqa", "entailment", "grounding")


@task(task_run_name="{name}", cache_policy=NO_CACHE)
def step(name: str, arguments: list[str]) -> str:
    """Output of an `albef` command; shows why, if it refuses.

    Raises:
        StageError: If it does.
    """
    try:
        return _dvc.albef(name, *arguments)
    except _dvc.StageError as error:
        create_markdown_artifact(f"Refused:\n\n```\n{error}\n```", key="refused")
        raise


def _table(key: str, output: str, description: str) -> None:
    """Show the rows that a command of ``albef registry`` printed."""
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
    """Register, compare with the champion, load, probe, take over; every step is shown as an artifact.

    The server must run with ``albef serve --explicit`` on ``served``. A refused or failed release leaves the champion's
    alias and the served version as they were.

    Args:
        served: The model repository that the server has.
        url: Its gRPC address.
        new: The model repository to release.
        probes: JSON list of questions that the new version has to answer.
        refresh: First bring the pipeline's evaluations and ``artifacts/repository`` up to date.

    Returns:
        The version that answers now.

    Raises:
        StageError: If the release is refused or fails.
    """
    if refresh:
        _show.publish(_dvc.run("repository", *(f"evaluate@{name}" for name in EVALUATED)))
    known = ["--lists", "artifacts/validated/lists"]
    made = ["--repository", new, "--evaluate", "artifacts/evaluate"]
    registered = step("register", ["registry", "register", *made, *known])
    _table("challengers", registered, "Registered in MLflow, alias challenger")

    verdicts = step("compare", ["registry", "compare", "--url", url, "--images", "artifacts/data", *known])
    _table("verdicts", verdicts, "Challengers beside champions on the test split")

    place = ["--repository", served, "--url", url]
    said = step("load", ["release", *place, "--new", new, *(["--probes", probes] if probes else [])])
    version = int(said.split()[1])  # "version N answers"
    create_markdown_artifact(f"Version {version} answers at {url}, and has answered its probes.", key="served")

    try:
        promoted = step("promote", ["registry", "promote", "--triton-version", str(version)])
    except BaseException:
        step("rollback", ["rollback", *place])
        raise
    _table("champions", promoted, f"Served as version {version}, alias champion")
    return version
