"""What the server is made of is known to the last byte, and what runs may do no more than it must."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.conftest import ServerProcess
from tests.deploy.files import PROJECT, document
from tests.web.conftest import connected, until

LOCKS = sorted(it.name for it in PROJECT.glob("requirements*.txt"))
CLIENTS = "tests/mcp"  # what speaks MCP to it in the tests, and is no part of it
SBOM = PROJECT / "scripts" / "sbom"
UID = 10001
ELSEWHERE = ("/proc", "/sys", "/dev")  # what the kernel shows, which no file system holds

# The data alone can be written, below /srv. What a closed folder hides of Python and of us is shown again.
# Arguments: the folder of the data, how many folders to show and those, then the command.
SHUT_IN = r"""
data=$1 count=$2; shift 2
mount --make-rprivate /
mount -t tmpfs -o mode=755 none /srv
mkdir /srv/data /srv/shown
mount --bind "$data" /srv/data
shown=("${@:1:count}"); shift "$count"
for at in "${!shown[@]}"; do
    mkdir "/srv/shown/$at"
    mount --bind "${shown[at]}" "/srv/shown/$at"
done
for at in "${!shown[@]}"; do
    folder=${shown[at]} top=/
    while read -r part; do
        top=${top%/}/$part
        [[ $(stat -c %A "$top") == *[xt] ]] && continue
        mount -t tmpfs -o mode=755 none "$top"
        break
    done < <(tr / '\n' <<<"${folder#/}")
    [[ -e $folder ]] || { mkdir -p "$folder"; mount --bind "/srv/shown/$at" "$folder"; }
done
while read -r _ _ _ _ point _; do
    case $point in /srv/data | /proc* | /sys* | /dev*) ;; *) mount -o remount,bind,ro "$point" ;; esac
done </proc/self/mountinfo
cd /srv/data
exec setpriv "${AS[@]}" --no-new-privs --inh-caps=-all --bounding-set=-all "$@"
"""


def shut_in(data):
    is_root = os.geteuid() == 0
    as_whom = f"--reuid={UID} --regid={UID} --clear-groups" if is_root else "--nnp"
    begin = ["unshare", "--mount"] if is_root else ["unshare", "--user", "--map-root-user", "--mount"]
    shown = sorted({sys.base_prefix, str(PROJECT)})
    return (*begin, "bash", "-euc", f"AS=({as_whom})\n{SHUT_IN}", "bash", str(data), str(len(shown)), *shown)


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


def of_process(pid, name):
    return Path(f"/proc/{pid}/{name}").read_text()


async def test_it_runs_without_rights_where_only_its_data_can_be_written(tmp_path, data, directory):
    """Neither a root file system that it could change, nor a folder for temporary files, nor any capability."""
    unmeasured = {name: "" for name in os.environ if name.startswith("COV")}  # it has nowhere to write its coverage
    server = ServerProcess(tmp_path, record="sqlite:////srv/data/tasks.db", environ=unmeasured)
    server.under = shut_in(data)
    server.start()
    try:
        status = of_process(server.pid, "status")
        assert re.search(r"^CapEff:\s0+$", status, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\s1$", status, re.MULTILINE)
        if os.geteuid() == 0:
            assert re.search(rf"^Uid:\s{UID}\s{UID}\s{UID}\s{UID}$", status, re.MULTILINE)
        mounts = [line.split() for line in of_process(server.pid, "mountinfo").splitlines()]
        writable = {it[4] for it in mounts if "rw" in it[5].split(",") and not it[4].startswith(ELSEWHERE)}
        assert writable == {"/srv/data"}
        async with connected(server) as api:
            task = await api.claimed(directory, prompt="x" * 10_000)
            assert (await api.tell(task, "complete", result="y" * 100_000)).status == 200
            found = (await api.get("/api/v1/tasks", q="xxxx", sort="-updated_at")).data["tasks"]
            assert [it["task_id"] for it in found] == [task["task_id"]]

            async def is_well():
                return (await api.get("/health")).json["status"] == "healthy"

            await until(is_well)
    finally:
        assert server.terminate() == 0
    assert "tasks.db" in os.listdir(data)
    assert "Traceback" not in server.log.read_text()


# Locks


@pytest.mark.parametrize("lock", [*LOCKS, f"{CLIENTS}/requirements-client-1.txt"])
def test_every_package_is_pinned_with_the_hashes_of_its_files(lock):
    lines = [it for it in (PROJECT / lock).read_text().splitlines() if it.strip() and not it.lstrip().startswith("#")]
    assert lines
    for at, line in enumerate(lines):
        if line.startswith("    "):
            assert re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}(?: \\)?", line)
        else:
            assert re.fullmatch(r"[a-z0-9._\[\],-]+==[^\s;]+( ; .*)? \\", line), line
            assert lines[at + 1].startswith("    --hash=")


def test_every_tool_of_node_is_pinned_with_its_hash():
    """And the lock says neither where it came from nor who would like some money."""
    lock = (PROJECT / CLIENTS / "package-lock.json").read_text()
    root, *packages = json.loads(lock)["packages"].values()
    assert root["dependencies"] == json.loads((PROJECT / CLIENTS / "package.json").read_text())["dependencies"]
    assert all(re.fullmatch(r"[\w.-]+", it) for it in root["dependencies"].values())
    assert packages
    for package in packages:
        assert package.get("inBundle") or re.fullmatch(r"sha512-[\w+/]{86}==", package["integrity"]), package
        assert not {"resolved", "funding"} & package.keys()
    assert "://" not in lock


def kept():
    """Every file of the project."""
    said = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, check=True).stdout
    return [it for it in (PROJECT / name.decode() for name in said.split(b"\0") if name) if it.is_file()]


def test_nothing_says_where_packages_are_fetched_from():
    """That is for those who install them: their mirror, their cache, their proxy."""
    options = rb"--(extra-)?index-url[ =]\S*/|--find-links|--trusted-host"
    named = re.compile(options + rb"|//[\w.-]*(pypi|npmjs|npm\.)|/simple/\w")
    own = Path(__file__)
    assert not [it for it in kept() if it != own and named.search(it.read_bytes())]


def test_everything_is_installed_by_hash():
    """And what is ours without anything else."""
    installs = r"^.*(?:/pip install|\"\$\{install\[@\]\}\") .*$"
    for file, count in (("Dockerfile", 2), ("scripts/setup", 3)):
        script = (PROJECT / file).read_text().replace("\\\n", " ")
        lines = re.findall(installs, script, re.MULTILINE)
        assert len(lines) == count
        assert all("--require-hashes" in line or "--no-deps" in line for line in lines), lines
    assert re.findall(r"npm\(\)\)' (.*?)\s+--ignore-scripts", script) == ['ci --prefix "$mcp_tools.new"']


# What it is made of


def bill(lock):
    return subprocess.run([SBOM, PROJECT / lock], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("lock", LOCKS)
def test_the_bill_of_materials_is_valid_and_names_every_package(lock):
    said = bill(lock)
    errors = JsonStrictValidator(SchemaVersion.V1_6).validate_str(said)
    assert errors is None, errors
    assert bill(lock) == said
    made = json.loads(said)
    pinned = re.findall(r"^([a-z0-9._-]+)(?:\[.*\])?==([^\s;]+)", (PROJECT / lock).read_text(), re.MULTILINE)
    assert [(it["name"], it["version"]) for it in made["components"]] == pinned
    assert all(it["hashes"] for it in made["components"])


def test_the_bill_of_materials_says_who_needs_whom_and_not_where_it_comes_from():
    made = json.loads(bill("requirements.txt"))
    needs = {it["ref"].partition("@")[0]: it["dependsOn"] for it in made["dependencies"]}
    own = needs["pkg:generic/task-orchestrator"]
    assert any(it.startswith("pkg:pypi/aiohttp@") for it in own)
    assert any(it.startswith("pkg:pypi/yarl@") for it in needs["pkg:pypi/aiohttp"])
    made.pop("$schema")
    assert "://" not in json.dumps(made)
    scopes = {it["name"]: it["scope"] for it in made["components"]}
    assert scopes["setuptools"] == "excluded"
    assert scopes["aiohttp"] == "required"


# What runs


def test_the_image_runs_as_nobody_and_installs_nothing():
    """Neither a tool to build with nor one to install with is in what runs."""
    build, run = re.split(r"^FROM .*$", (PROJECT / "Dockerfile").read_text(), flags=re.MULTILINE)[1:]
    assert "uninstall --yes setuptools pip" in build
    assert "pip" not in run
    assert re.search(r"^USER orchestrator$", run, re.MULTILINE)
    assert f"--uid {UID}" in run
    assert not re.search(r"^(ADD|ARG)\b|\bapt|\bcurl|\bwget", run, re.MULTILINE)


@pytest.mark.parametrize("name", ["compose.yaml", "compose.cluster.yaml"])
def test_compose_gives_it_no_more_than_it_needs(name):
    services = document(PROJECT / "deploy" / name)["services"]
    ours = [it for it in services.values() if "APP_" in json.dumps(it) or "task-orchestrator" in str(it.get("image"))]
    assert ours
    for service in ours:
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service
        assert "docker.sock" not in json.dumps(service.get("volumes", []))
