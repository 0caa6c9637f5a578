"""What is said about deploy/ is true of it."""

import json
import re

import pytest

from tests.deploy.files import DEPLOY, LONGEST_WAIT_SECONDS, PROJECT, all_files, document, documents, known_variables
from web.delivery import PING_SECONDS
from web.settings import SETTINGS, Settings

GUIDE = (PROJECT / "docs" / "deploying.md").read_text()
OTHERS = {"POSTGRES_PASSWORD", "GRAFANA_PASSWORD", "TAG", "NAME", "PASSWORD", "HOST", "DATABASE"}


@pytest.mark.parametrize("name", ["docs/deploying.md", "README.md", "Dockerfile", "docs/decisions/README.md"])
def test_every_file_that_is_named_is_there(name):
    named = set(re.findall(r"\bdeploy/[\w./-]*\w", (PROJECT / name).read_text()))
    assert all((PROJECT / it).exists() for it in named)


def test_every_variable_and_setting_that_is_named_is_one():
    variables = set(re.findall(r"\b([A-Z]{2,}(?:_[A-Z]+)*)=", GUIDE))
    assert "API_SECRET_KEY" in variables
    assert variables <= known_variables() | OTHERS
    sections = "|".join({it.section for it in SETTINGS.values()})
    settings = set(re.findall(rf"`((?:{sections})\.\w+)`", GUIDE))
    assert settings
    assert settings <= SETTINGS.keys()


def test_its_figures_are_those_of_the_code():
    assert f"claims wait up to {LONGEST_WAIT_SECONDS:.0f} s in silence" in GUIDE
    assert f"streams say something each {PING_SECONDS} s" in GUIDE
    assert f"`server.request_timeout_seconds`, {Settings().server.request_timeout_seconds:.0f}" in GUIDE
    assert f"at most {Settings().database.timeout_seconds:.0f} s later" in GUIDE
    scaler = document(DEPLOY / "kubernetes/cluster/autoscaler.yaml")["spec"]["maxReplicas"]
    (container,) = document(DEPLOY / "kubernetes/cluster/deployment.yaml")["spec"]["template"]["spec"]["containers"]
    (each,) = (int(it["value"]) for it in container["env"] if it["name"] == "APP_DATABASE_MAX_CONNECTIONS")
    assert f"With ten instances and {each} each that is {each * (scaler + 1) + 10}." in GUIDE


def test_every_file_can_be_read():
    """No key comes twice, no file is of a kind that nothing here looks at."""
    readers = {".yaml": documents, ".yml": document, ".json": lambda path: json.loads(path.read_text())}
    for path in all_files():
        assert readers[path.suffix](path) if path.suffix in readers else path.suffix in (".conf", ".service"), path


def test_no_secret_lies_here():
    """Nothing that looks like one: long words of letters and digits, or a password in an address."""
    for path in all_files():
        text = path.read_text()
        assert not re.search(r"://\w+:(?!\$\{|PASSWORD@)[^@\s/]+@", text), path
        assert not re.search(r"\b(?=\w*\d)(?=\w*[a-z])(?=\w*[A-Z])\w{24,}\b", text), path
