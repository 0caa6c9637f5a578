"""scripts/soak.py does what it says, in its shortest form."""

import re
import subprocess
import sys

from .supervisor import PROJECT

LAST = r"slope=-?[\d.]+ KiB/minute descriptors=(\d+)\.\.(\d+) cycles=([\d.]+)/s, .* log +(\d+) KiB .*\n"


def test_a_short_soak_tells_slope_descriptors_and_log() -> None:
    """And in so short a time nothing piles up but memory still being taken for the first time."""
    command = [sys.executable, PROJECT / "scripts" / "soak.py", "--minutes", "0.05"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as soak:
        try:
            out, _ = soak.communicate()  # the suite's own timeout ends it
        finally:
            soak.terminate()
    assert soak.returncode == 0, out
    found = re.search(LAST, out)
    assert found, out
    first, last, cycles, log_kib = map(float, found.groups())
    assert 0 < last <= first + 3
    assert log_kib < 32 * 1024
    assert cycles > 0
