"""The unit: systemd finds nothing wrong with it, and the server can live with what it forbids."""

import re
import shutil
import subprocess
import sys
from collections import defaultdict

import pytest

from tests.conftest import ServerProcess
from tests.deploy.files import DEPLOY, PROGRAMS, is_refused, settings_from
from tests.web.conftest import connected, until
from web.serve import serve
from web.settings import Settings

UNIT = DEPLOY / "systemd" / "task-orchestrator.service"
INSTALLED = "/opt/task-orchestrator/bin/"
WITHOUT_EXECUTABLE_MEMORY = """
import ctypes, os, sys
PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1
if ctypes.CDLL(None).prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0):
    sys.exit("the kernel does not know that")
os.execv(sys.argv[1], sys.argv[1:])
"""
MAKE_SOME = "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)"
EXPOSURE_MAX = 12  # tenths; systemd calls up to 4.9 OK
WRONG_SETTINGS = 2
SHUT_IN = """DynamicUser NoNewPrivileges ProtectHome ProtectClock ProtectHostname ProtectControlGroups ProtectKernelLogs
ProtectKernelModules ProtectKernelTunables PrivateTmp PrivateDevices PrivateUsers LockPersonality MemoryDenyWriteExecute
RestrictNamespaces RestrictRealtime RestrictSUIDSGID"""
ONLY_AS_ROOT = {"fchown"}  # SQLite gives files it makes the owner of the database

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no systemd elsewhere")
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine")


def said():
    """What the unit says, by section and key; a key may come several times."""
    found = defaultdict(lambda: defaultdict(list))
    for line in UNIT.read_text().splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = found[match[1]]
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section[key].append(value)
    return found


def ran(command):
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def asked(*arguments):
    done = ran(["systemd-analyze", *arguments])
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def here(tmp_path):
    """The unit with the program where it is on this machine: systemd looks whether it is there."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(INSTALLED, f"{PROGRAMS}/"))
    return unit


@needs_systemd
def test_systemd_finds_nothing_to_complain_of(here):
    assert asked("verify", "--man=no", str(here)) == (0, "")


@needs_systemd
def test_systemd_finds_it_well_shut_in(here):
    status, report = asked("security", "--offline=yes", f"--threshold={EXPOSURE_MAX}", str(here))
    assert status == 0, report


def test_it_says_all_that_shuts_it_in():
    """Also where there is no systemd to ask."""
    service = said()["Service"]
    assert all(service[key] == ["yes"] for key in SHUT_IN.split())
    assert (service["ProtectSystem"], service["CapabilityBoundingSet"]) == (["strict"], [""])
    assert {"RestrictAddressFamilies", "SystemCallFilter", "StateDirectory"} <= service.keys()


def test_what_it_starts_is_a_command_of_the_program():
    (command,) = said()["Service"]["ExecStart"]
    assert command == f"{INSTALLED}task-orchestrator {serve.__name__}"
    assert (PROGRAMS / "task-orchestrator").exists()
    assert ran([PROGRAMS / "task-orchestrator", "serve", "--help"]).returncode == 0


def test_the_server_takes_its_environment():
    """The record is in the folder that systemd makes, and nothing else is set that the server does not know."""
    service = said()["Service"]
    settings = settings_from(dict(it.split("=", 1) for it in service["Environment"]))
    (folder,) = service["StateDirectory"]
    assert str(settings.database.path.parent) == f"/var/lib/{folder}" == service["WorkingDirectory"][0]
    assert is_refused(APP_SERVER_PROT="1")


def test_it_has_time_to_stop_and_is_not_started_again_for_nothing():
    service = said()["Service"]
    assert int(service["TimeoutStopSec"][0]) > Settings().database.timeout_seconds
    assert service["Restart"] == ["on-failure"]
    assert service["RestartPreventExitStatus"] == [str(WRONG_SETTINGS)]
    wrong = [sys.executable, "-m", "task_orchestrator", "serve", "--port", "none"]
    assert ran(wrong).returncode == WRONG_SETTINGS


async def test_it_reloads_by_the_signal_the_server_heeds(tmp_path, directory):
    (reload,) = said()["Service"]["ExecReload"]
    file = tmp_path / "settings.toml"
    file.write_text("[task]\nmax_task_retries = 5\n")
    server = ServerProcess(tmp_path, "--config", str(file)).start()
    async with connected(server) as api:
        assert (await api.create(directory))["max_retries"] == 5
        file.write_text("[task]\nmax_task_retries = 6\n")
        assert ran(reload.replace("$MAINPID", str(server.pid)).split()).returncode == 0

        async def adopted():
            return (await api.create(directory))["max_retries"] == 6

        await until(adopted)
    assert server.terminate() == 0


async def use(server, directory):
    """Start it, have a task done, and stop it."""
    server.start()
    async with connected(server) as api:
        await api.tell(await api.claimed(directory), "complete", result="done", original_prompt="Tidy up")
        assert (await api.get("/health")).status == 200
        assert (await api.get("/metrics")).status == 200
    assert server.terminate() == 0


async def test_the_server_makes_no_memory_executable(tmp_path, directory):
    """MemoryDenyWriteExecute: none of what it is built on does. The kernel is asked for the same here."""
    assert said()["Service"]["MemoryDenyWriteExecute"] == ["yes"]
    under = (sys.executable, "-c", WITHOUT_EXECUTABLE_MEMORY)
    tried = ran([*under, sys.executable, "-c", MAKE_SOME])
    if "kernel" in tried.stderr:
        pytest.skip("the kernel is older than 6.3")
    assert "PermissionError" in tried.stderr
    server = ServerProcess(tmp_path)
    server.under = under
    await use(server, directory)


def allowed_calls():
    """The names of all system calls that SystemCallFilter lets through."""
    groups, name = defaultdict(set), ""
    for line in asked("syscall-filter")[1].splitlines():
        if line.startswith("@"):
            name = line
        elif line.startswith("    ") and not line.strip().startswith("#"):
            groups[name].add(line.strip())

    def members(name):
        return set().union(*map(members, groups[name])) if name.startswith("@") else {name}

    found = set()
    for line in said()["Service"]["SystemCallFilter"]:
        calls = set().union(*map(members, line.removeprefix("~").split()))
        found = found - calls if line.startswith("~") else found | calls
    return found


@needs_systemd
async def test_the_server_asks_nothing_of_the_system_that_is_forbidden(tmp_path, directory):
    """Seen by strace, from its start to its end; forbidden calls that it can do without would be refused with EPERM."""
    output = tmp_path / "calls"
    allowed = allowed_calls()
    assert {"openat", "fdatasync", "prlimit64", "accept4"} <= allowed
    assert not {"mount", "setpriority", "setuid", "chown", "ptrace", "reboot"} & allowed
    server = ServerProcess(tmp_path)
    server.under = ("strace", "-D", "-f", "-qq", "-e", "signal=none", "-o", str(output))
    await use(server, directory)
    calls = set(re.findall(r"^\d+ +(\w+)\(", output.read_text(), re.MULTILINE))
    assert {"openat", "fdatasync"} <= calls
    families = set(re.findall(r"socket\((AF_\w+)", output.read_text()))
    assert calls - allowed <= ONLY_AS_ROOT
    assert families <= set(said()["Service"]["RestrictAddressFamilies"][0].split())
