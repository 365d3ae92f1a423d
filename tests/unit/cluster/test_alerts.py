"""Alert rules and what is scraped for them."""

from __future__ import annotations

import re

import pytest

from ecgmoe.metrics import METRICS
from jobs import REPOSITORY
from manifests import WITH_KUEUE, named, of


@pytest.mark.parametrize("name", WITH_KUEUE)
def test_alerts_ask_for_metrics_that_there_are(name: str) -> None:
    known = {f"ray_ecgmoe_{metric}{'_total' if told.counts else ''}" for metric, told in METRICS.items()}
    # Of KubeRay's operator, by its documentation.
    known |= {"kuberay_job_deployment_status"}
    for rule in [
        rule for group in named(name, "PrometheusRule", "ecgmoe")["spec"]["groups"] for rule in group["rules"]
    ]:
        asked = metrics_asked_for(rule["expr"])
        assert asked, rule["alert"]
        assert asked <= known, rule["alert"]
        page, _, message = rule["annotations"]["runbook"].partition(", ")
        assert message.lower() in (REPOSITORY / page).read_text().lower(), rule["alert"]
    monitors = {each["metadata"]["name"]: each["spec"] for each in of(name, "PodMonitor")}
    ports = {one: each["podMetricsEndpoints"][0]["port"] for one, each in monitors.items()}
    assert ports == {"ray-heads": "metrics", "ray-workers": "metrics", "kuberay-operator": "http"}
    operator = monitors["kuberay-operator"]
    assert operator["namespaceSelector"] == {"matchNames": ["kuberay-system"]}
    # Else the label namespace, by which the alerts choose, would be the operator's.
    assert operator["podMetricsEndpoints"][0]["honorLabels"] is True


def metrics_asked_for(expression: str) -> set[str]:
    """Names of metrics in a PromQL expression of this simple kind; whether it means what it should is not looked at.

    Raises:
        ValueError: its brackets do not close.
    """
    unquoted = re.sub(r'"[^"]*"', "", expression)
    opened: list[str] = []
    for sign in re.findall(r"[()\[\]{}]", unquoted):
        if sign in "([{":
            opened.append({"(": ")", "[": "]", "{": "}"}[sign])
        elif not opened or opened.pop() != sign:
            raise ValueError(f"{sign} closes nothing in {expression!r}")
    if opened:
        raise ValueError(f"{opened[-1]} is missing in {expression!r}")
    # Without labels, ranges and the labels that are summed over or matched on, and without functions.
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(by|without|on|ignoring)\s*\([^)]*\)", " ", unquoted)
    words = set(re.findall(r"(?<![\w.])[a-zA-Z_:][\w:]*\b(?!\s*\()", bare))
    aggregations = {"sum", "max", "min", "avg", "count"}
    return words - aggregations - {"and", "or", "unless", "offset", "bool"}


def test_metrics_are_found_in_expressions() -> None:
    asked = metrics_asked_for('max by (run) (changes(a_total{kind=~"b|c("}[45m])) > 0.5 and on (run) d offset 45m == 1')
    assert asked == {"a_total", "d"}
    for broken in ("max(a", "max(a))", "a[5m}", "max by (run (a)"):
        with pytest.raises(ValueError, match=r"closes nothing|is missing"):
            metrics_asked_for(broken)
