"""Prometheus and Grafana: their files are right, and whatever they ask for is measured."""

import json
import re
import subprocess
import sys
from itertools import chain

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.files import DEPLOY, PROGRAMS, document
from tests.web.conftest import connected
from web.routes import METRICS_PATH

RULES = DEPLOY / "prometheus" / "alerts.yml"
CONFIG = DEPLOY / "prometheus" / "prometheus.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "task-orchestrator.json"
PROVISIONING = DEPLOY / "grafana" / "provisioning"
OF_PROMETHEUS = {"up": {"job", "instance"}}
WORDS = "sum max min rate increase histogram_quantile topk absent by and on label_values"
NAMES_WITH_LABELS = re.compile(r"\b([a-z_]\w*)(?:\{([^}]*)\})?")
VALUES = {"$__rate_interval": "5m", "$job": "task-orchestrator"}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="scripts/setup brings promtool on Linux only")


def rules():
    return [rule for group in document(RULES)["groups"] for rule in group["rules"]]


def panels():
    return json.loads(DASHBOARD.read_text())["panels"]


def asked_for():
    """Every expression in an alert or on the dashboard."""
    return [it["expr"] for it in rules()] + [it["expr"] for panel in panels() for it in panel["targets"]]


def parts(expression):
    """What it asks for, with the labels it is narrowed by; and the labels it is grouped by."""
    grouped = {it.strip() for group in re.findall(r"\bby \(([^)]*)\)", expression) for it in group.split(",")}
    rest = re.sub(r"\bby \([^)]*\)|\[[^]]*\]", "", expression)
    names = {}
    for name, labels in NAMES_WITH_LABELS.findall(re.sub(r'"[^"]*"', '""', rest)):
        if name not in WORDS.split():
            names[name] = set(re.findall(r"(\w+)=~?", labels))
    return names, grouped


def promtool(*arguments):
    done = subprocess.run([PROGRAMS / "promtool", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
async def measured(server, directory):
    """What /metrics of a real server tells: each sample's name with its labels, and ("=", name) with their values."""
    async with connected(server) as api, api.stream(f"{directory}/other"):
        await api.tell(await api.claimed(directory), "complete", result="done", original_prompt="Tidy up")
        text = (await api.get(METRICS_PATH)).content.decode()
    found = dict(OF_PROMETHEUS)
    for family in text_string_to_metric_families(text):
        for it in family.samples:
            found.setdefault(it.name, {"job", "instance"}).update(it.labels)
            found["=", it.name] = found.get(("=", it.name), set()) | set(it.labels.items())
    return found


def test_promtool_finds_nothing_to_complain_of():
    promtool("check", "config", "--syntax-only", str(CONFIG))
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))


def test_the_alerts_come_when_they_should():
    promtool("test", "rules", str(DEPLOY / "prometheus" / "alerts.test.yml"))


def test_every_alert_says_how_bad_it_is_and_what_it_means():
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}


def test_everything_on_the_dashboard_can_be_asked(tmp_path):
    asked = [it["expr"] for panel in panels() for it in panel["targets"]]
    for name, value in VALUES.items():
        asked = [it.replace(name, value) for it in asked]
    assert not [it for it in asked if "$" in it]
    file = tmp_path / "asked.yml"
    recorded = [{"record": f"panel:{number}", "expr": it} for number, it in enumerate(asked)]
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    promtool("check", "rules", "--lint=none", str(file))


async def test_whatever_is_asked_for_is_measured(measured):
    names = set()
    for expression in asked_for():
        wanted, grouped = parts(expression)
        assert wanted, expression
        for name, labels in wanted.items():
            assert name in measured, (name, expression)
            assert labels <= measured[name], (name, labels - measured[name])
        assert grouped <= set().union(*(measured[name] for name in wanted)), expression
        values = set().union(*(measured.get(("=", name), set()) for name in wanted)) | {("job", "task-orchestrator")}
        assert set(re.findall(r'(\w+)="([^"$]+)"', expression)) <= values, expression
        names |= wanted.keys()
    assert len(names) > 20


def test_a_name_that_is_not_measured_is_found():
    names, grouped = parts(
        'histogram_quantile(0.9, sum by (le, x) (rate(no_such_bucket{job="$job",route=~"a"}[5m]))) > 1'
    )
    assert (names, grouped) == ({"no_such_bucket": {"job", "route"}}, {"le", "x"})


def test_labels_in_legends_are_those_that_are_left():
    for panel in panels():
        for target in panel["targets"]:
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            _, grouped = parts(target["expr"])
            assert shown <= (grouped if "sum" in target["expr"] else {"instance", "job"}), target


def test_grafana_finds_its_source_and_its_dashboard():
    dashboard = json.loads(DASHBOARD.read_text())
    (source,) = document(PROVISIONING / "datasources" / "prometheus.yml")["datasources"]
    (provider,) = document(PROVISIONING / "dashboards" / "files.yml")["providers"]
    services = document(DEPLOY / "compose.cluster.yaml")["services"]
    mounts = dict(it.split(":")[:2] for it in services["grafana"]["volumes"])
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"
    assert source["url"] == "http://prometheus:9090"
    used = chain(panels(), *(it["targets"] for it in panels()), dashboard["templating"]["list"])
    assert {it["datasource"]["uid"] for it in used} == {source["uid"]}
    (variable,) = dashboard["templating"]["list"]
    assert variable["name"] == "job"
    (name,) = parts(variable["query"]["query"].replace(", job", ""))[0]
    assert name == "active_tasks"


def test_the_panels_lie_side_by_side():
    """None hides another, and none has the number of another."""
    taken = {}
    for panel in panels():
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert taken.setdefault((x, y), panel["id"]) == panel["id"], panel["title"]
    assert len({it["id"] for it in panels()}) == len(panels())


def test_prometheus_asks_each_instance_with_the_key():
    (job,) = document(CONFIG)["scrape_configs"]
    assert job["metrics_path"] == METRICS_PATH
    prometheus = document(DEPLOY / "compose.cluster.yaml")["services"]["prometheus"]
    assert job["authorization"]["credentials_file"].removeprefix("/run/secrets/") in prometheus["secrets"]
    named = {f"/etc/prometheus/{it}" for it in document(CONFIG)["rule_files"]} | {"/etc/prometheus/prometheus.yml"}
    assert named <= {it.split(":")[1] for it in prometheus["volumes"]}
    assert {job["job_name"]} == set(re.findall(r'job="([^"]+)"', RULES.read_text()))
