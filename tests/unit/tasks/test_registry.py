"""Tasks and endpoints by name."""

from __future__ import annotations

import pytest

from albef.serving import protocol, requests
from albef.tasks import registry
from albef.tasks.registry import UnknownTaskError
from tests.errors import refuses


def test_an_endpoint_of_another_tasks_graphs_is_no_task() -> None:
    assert not {"embed", "classify", "compare"} & set(registry.names())
    for name, task in (("embed", "retrieval"), ("classify", "retrieval"), ("compare", "nlvr2"), ("vqa", "vqa")):
        assert registry.endpoint(name).task == task
    with refuses(UnknownTaskError, "'embed'", "retrieval"):
        registry.spec("embed")
    with refuses(UnknownTaskError, "'nlvr2'", "compare"):
        registry.endpoint("nlvr2")


def test_every_task_with_an_endpoint_has_its_own() -> None:
    served = registry.served_tasks()
    assert served["nlvr2"] == "compare"
    assert set(served.values()) < set(registry.endpoints())
    assert {registry.endpoint(name).task for name in registry.endpoints()} == set(served)


@pytest.mark.parametrize("name", registry.endpoints())
def test_an_endpoint_has_its_modules_and_needs_graphs_of_its_task(name: str) -> None:
    spec = registry.endpoint(name)
    for part in ("endpoint", "client", "export"):
        assert registry.provides(spec.name, part), part
    assert registry.graph_models(name)[protocol.VISION] == protocol.model_name(spec.task, protocol.VISION)
    own, exported = registry.graphs(spec.name), registry.graphs(spec.task)
    assert own.items() <= exported.items()
    sent = registry.client(name).probe("red", None, 1)
    assert sent.spec == registry.endpoints()[name]
    given = {tensor.name for tensor in sent.spec.inputs if not tensor.optional}
    assert given <= set(sent.arrays) <= set(sent.spec.input_names)


def test_a_request_to_no_endpoint_is_refused() -> None:
    with refuses(UnknownTaskError, "'pretrain'", "retrieval", "classify"):
        requests.build("pretrain", texts=["red"])
