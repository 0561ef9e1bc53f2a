"""Prometheus expressions of alerts, dashboards and the autoscaler."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
from ruamel.yaml import YAML

from albef.serving import metrics
from albef.serving.client import InvalidRequestError
from tests import ROOT
from tests.errors import refuses

INFRA = ROOT / "infra"
DASHBOARDS = sorted((INFRA / "grafana" / "dashboards").glob("*.json"))
NAME = re.compile(r"\b((?:albef|nv)_\w+)")


def read(path: str) -> Any:
    return YAML(typ="safe").load(INFRA / path)


def strings(value: Any, key: str) -> Iterator[str]:
    """Yield all values of ``key`` in nested data."""
    if isinstance(value, dict):
        for name, each in value.items():
            if name == key:
                yield each
            yield from strings(each, key)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each, key)


def expressions() -> dict[str, str]:
    """Return all expressions by location, with the variables of Grafana and the adapter replaced."""
    found = {f"rules {i}": text for i, text in enumerate(strings(read("prometheus/rules.yml"), "expr"))}
    for path in DASHBOARDS:
        texts = strings(json.loads(path.read_text()), "expr")
        found |= {f"{path.stem} {i}": re.sub(r"\$__\w+", "1m", text) for i, text in enumerate(texts)}
    for text in strings(read("k8s/monitoring/adapter.yaml"), "metricsQuery"):
        found["adapter"] = text.replace("<<.GroupBy>>", "pod").replace("<<.LabelMatchers>>", 'pod="a"')
    return found


@pytest.mark.parametrize("where", expressions())
def test_expressions_parse(where):
    promql_parser.parse(expressions()[where])


def test_the_parser_refuses_what_is_none():
    with refuses(ValueError, "parenthesis"):
        promql_parser.parse("sum by (model) (rate(albef_requests_total[5m])")


def test_rules_name_alerts_of_their_own():
    alerts = list(strings(read("prometheus/rules.yml"), "alert"))
    assert len(alerts) == len(set(alerts)) >= 3
    assert all(
        "summary" in rule["annotations"] for group in read("prometheus/rules.yml")["groups"] for rule in group["rules"]
    )


def test_dashboards_use_the_data_source_that_is_provisioned():
    (source,) = read("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_text())
        panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
        assert panels
        assert {panel["datasource"]["uid"] for panel in panels} == {source["uid"]}
        identities = [panel["id"] for panel in dashboard["panels"]]
        assert len(identities) == len(set(identities))
        for a in panels:  # none lies on another
            for b in panels:
                if a["id"] < b["id"]:
                    p, q = a["gridPos"], b["gridPos"]
                    beside = p["x"] + p["w"] <= q["x"] or q["x"] + q["w"] <= p["x"]
                    assert beside or p["y"] + p["h"] <= q["y"] or q["y"] + q["h"] <= p["y"], (a["title"], b["title"])


def test_every_metric_is_one_that_a_server_has(server, client):
    client.retrieve(text="red")
    with pytest.raises(InvalidRequestError):
        client.entail(b"no image", "red")
    with urllib.request.urlopen(f"http://{server.metrics_url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    have = set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))
    assert set(metrics.METRICS) <= have
    wanted = {name for expression in expressions().values() for name in NAME.findall(expression)}
    for path in DASHBOARDS:
        queries = strings(json.loads(path.read_text()), "definition")
        wanted |= {name for query in queries for name in NAME.findall(query)}
    assert len(wanted) >= 10
    gpu = {name for name in wanted if name.startswith("nv_gpu_")}  # there is none here
    assert wanted - gpu <= have
    # Each of our own counters is shown somewhere.
    assert set(metrics.METRICS) <= wanted
