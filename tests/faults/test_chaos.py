"""Everything goes wrong in turn while many clients are at work: the short form of scripts/chaos.py."""

import re
import subprocess
import sys

from .supervisor import PROJECT
from .weather import FAULTS

MINUTES = 0.6
OTHER_NAMES = {"kill": "kills", "term": "terms"}


def test_whatever_goes_wrong_nothing_is_lost_doubled_or_stuck() -> None:
    """Each fault has happened, and the record of all calls and that of the server agree."""
    command = [sys.executable, PROJECT / "scripts" / "chaos.py", "--minutes", str(MINUTES)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as chaos:
        try:
            out, _ = chaos.communicate()  # the suite's own timeout ends it
        finally:
            chaos.terminate()
    print(out)  # shown if it fails
    last = out.splitlines()[-1]
    assert last.endswith("lost=0 double=0 stuck=0 other=0")
    assert chaos.returncode == 0
    numbers = {name: int(number) for name, number in re.findall(r"(\S+)=(\d+)", last)}
    assert all(numbers[OTHER_NAMES.get(fault, fault)] for fault in FAULTS)
    assert numbers["calls"] > numbers["tasks"] > 100
