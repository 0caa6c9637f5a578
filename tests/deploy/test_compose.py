"""The compose files: valid by the schema of the Compose Specification, complete, and true."""

import json
import re
from importlib.resources import files

import pytest
from jsonschema.validators import validator_for

from task_orchestrator import __version__
from tests.deploy.files import (
    DEPLOY,
    PROJECT,
    document,
    environment_of_the_image,
    interpolated,
    known_variables,
    settings_from,
)
from web.routes import ROUTES

SCHEMA = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())
CHECK = validator_for(SCHEMA)
SECRETS = {
    "compose.yaml": {"API_SECRET_KEY": "a-hard-word"},
    "compose.cluster.yaml": {"API_SECRET_KEY": "a-hard-word", "POSTGRES_PASSWORD": "pa55", "GRAFANA_PASSWORD": "pa55"},
}
BOTH = pytest.mark.parametrize("name", SECRETS)
RESERVED_CONNECTIONS = 10  # of PostgreSQL: for its superuser, and for a person with psql


def composed(name, **more):
    """The file as Compose takes it."""
    return interpolated(document(DEPLOY / name), SECRETS[name] | more)


def orchestrators(name):
    return {key: it for key, it in composed(name)["services"].items() if key.startswith("orchestrator")}


def seconds(duration):
    number, unit = re.fullmatch(r"(\d+)(s|m)", duration).groups()
    return int(number) * {"s": 1, "m": 60}[unit]


@BOTH
def test_it_is_valid_by_the_schema(name):
    CHECK.check_schema(SCHEMA)
    assert [error.message for error in CHECK(SCHEMA).iter_errors(composed(name))] == []


def test_the_schema_finds_what_is_misspelt():
    wrong = composed("compose.yaml")
    wrong["services"]["orchestrator"]["stop_grace_perod"] = "1s"
    assert list(CHECK(SCHEMA).iter_errors(wrong))


@BOTH
def test_without_a_secret_it_does_not_start(name):
    """None has a default, and none stands in the file."""
    asked_for = {it["environment"] for it in composed(name).get("secrets", {}).values()}  # Compose wants it to be set
    for secret in SECRETS[name].keys() - asked_for | {"API_SECRET_KEY"}:
        with pytest.raises(KeyError, match=secret):
            interpolated(document(DEPLOY / name), {key: it for key, it in SECRETS[name].items() if key != secret})
    words = re.findall(r"(?im)^\s*\w*(?:password|secret_key)\w*: (\S+)", (DEPLOY / name).read_text())
    assert words
    assert all(it.startswith(("${", "/run/secrets/")) for it in words)


@BOTH
def test_whatever_is_named_is_there(name):
    """Volumes, networks, secrets, other services, and every file that is handed in."""
    whole = composed(name)
    services = whole["services"]
    for key, service in services.items():
        for other, on in service.get("depends_on", {}).items():
            assert other in services, (key, other)
            assert on["condition"] == "service_started" or "healthcheck" in services[other], (key, other)
        assert set(service.get("networks", ())) <= whole.get("networks", {}).keys(), key
        assert set(service.get("secrets", ())) <= whole.get("secrets", {}).keys(), key
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in whole["volumes"], mount
        for value in service.get("environment", {}).values():
            if value.startswith("/run/secrets/"):
                assert value.rpartition("/")[2] in service["secrets"], (key, value)
        if "build" in service:
            assert (DEPLOY / service["build"] / "Dockerfile").samefile(PROJECT / "Dockerfile")
            assert service["image"] == f"task-orchestrator:{__version__}"


@BOTH
def test_every_service_says_how_it_is_and_how_long_it_may_take_to_stop(name):
    for key, service in composed(name)["services"].items():
        assert {"test", "interval", "timeout", "retries", "start_period"} <= service["healthcheck"].keys(), key
        assert "stop_grace_period" in service, key
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, key
        assert re.search(r":\S*\d", service["image"]), "an image is named with its version"


@BOTH
def test_the_server_takes_its_environment(name):
    """Each variable is a setting, each value is allowed, and with the key it listens on every address."""
    for service in orchestrators(name).values():
        assert service["environment"].keys() <= known_variables()
        settings = settings_from(environment_of_the_image() | service["environment"])
        assert settings.security.api_key
        assert settings.server.host == "0.0.0.0"
        assert seconds(service["stop_grace_period"]) > settings.database.timeout_seconds


@BOTH
def test_the_check_of_its_health_asks_a_route_at_its_port(name):
    port = environment_of_the_image()["SERVER_PORT"]
    for service in orchestrators(name).values():
        probe = service["healthcheck"]["test"][-1]
        compile(probe, "healthcheck", "exec")
        (path,) = re.findall(r"'GET', '([^']+)'", probe)
        assert path in {route.path for route in ROUTES if route.method == "GET"}
        assert f"'127.0.0.1', {port}," in probe


def test_the_record_of_the_single_one_is_on_the_volume():
    (service,) = orchestrators("compose.yaml").values()
    assert str(settings_from(environment_of_the_image()).database.path).startswith("/data/")
    assert "tasks:/data" in service["volumes"]


def test_three_equal_ones_share_a_database_that_has_room_for_all():
    """And for a fourth, while one is replaced."""
    instances = list(orchestrators("compose.cluster.yaml").values())
    assert len(instances) == 3
    assert instances[0] == instances[1] == instances[2]
    postgres = composed("compose.cluster.yaml")["services"]["postgres"]
    (most,) = (int(it.partition("=")[2]) for it in postgres["command"] if it.startswith("max_connections="))
    each = int(instances[0]["environment"]["APP_DATABASE_MAX_CONNECTIONS"])
    assert each * 4 + RESERVED_CONNECTIONS <= most
    url = instances[0]["environment"]["DATABASE_URL"]
    user, name = postgres["environment"]["POSTGRES_USER"], postgres["environment"]["POSTGRES_DB"]
    password = SECRETS["compose.cluster.yaml"]["POSTGRES_PASSWORD"]
    assert url == f"postgresql://{user}:{password}@postgres:5432/{name}?sslmode=disable"


def test_only_the_door_is_open_to_other_machines():
    services = composed("compose.cluster.yaml")["services"]
    open_ports = {key: port for key, it in services.items() for port in it.get("ports", ())}
    assert open_ports.pop("nginx") == "8080:8080"
    assert all(port.startswith("127.0.0.1:") for port in open_ports.values())
    assert services["postgres"]["networks"] == ["data"]
    assert composed("compose.cluster.yaml")["networks"]["data"] == {"internal": True}


def test_nginx_and_prometheus_know_all_the_instances():
    names = {f"{name}:8080" for name in orchestrators("compose.cluster.yaml")}
    upstream = re.findall(r"^\s*server (\S+)", (DEPLOY / "compose/upstream.conf").read_text(), re.MULTILINE)
    (job,) = document(DEPLOY / "prometheus/prometheus.yml")["scrape_configs"]
    assert set(upstream) == names
    assert set(job["static_configs"][0]["targets"]) == names
    assert composed("compose.cluster.yaml")["services"]["nginx"]["depends_on"].keys() == {
        name.partition(":")[0] for name in names
    }
