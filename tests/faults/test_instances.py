"""Everything goes wrong in turn with three servers on PostgreSQL while many clients are at work: the short form of
scripts/chaos.py --database postgres."""

import re
import subprocess
import sys

import pytest

from .gales import GALES
from .instances import RECOVERY_SECONDS
from .supervisor import PROJECT

MINUTES = 0.1  # or longer, until each fault has come
CLIENTS = 10


@pytest.mark.timeout(300)
def test_whatever_goes_wrong_with_several_servers_nothing_is_lost_doubled_or_stuck() -> None:
    """Each fault has happened, all have recovered from it, and the record of all calls agrees with that of the
    servers."""
    options = ["--database", "postgres", "--minutes", str(MINUTES), "--clients", str(CLIENTS)]
    command = [sys.executable, PROJECT / "scripts" / "chaos.py", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as chaos:
        try:
            out, _ = chaos.communicate()  # the suite's own timeout ends it
        finally:
            chaos.terminate()
    print(out)  # shown if it fails
    *_, recovery, last = out.splitlines()
    assert last.endswith("lost=0 double=0 stuck=0 other=0")
    assert chaos.returncode == 0
    numbers = {name: int(number) for name, number in re.findall(r"(\S+)=(\d+)", last)}
    assert all(numbers[fault] for fault in GALES)
    assert numbers["calls"] > numbers["tasks"] > 100
    seconds = {fault: float(time) for fault, time in re.findall(r"(\S+)=([\d.]+)s", recovery)}
    assert seconds.keys() == GALES.keys()
    assert max(seconds.values()) < RECOVERY_SECONDS
