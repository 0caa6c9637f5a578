"""The README's first command and the lines it prints, as a new user would copy them."""

import json
import os
import signal
import subprocess
from pathlib import Path

PROJECT = Path(__file__).parent.parent


def test_the_lines_that_start_prints_do_the_main_job(tmp_path: Path) -> None:
    """In a real git checkout: submit, work on it, watch it; and the completed task shows the output."""
    checkout = tmp_path / "check out"
    checkout.mkdir()
    for command in ("init -q", "commit -q --allow-empty -m one", "commit -q --allow-empty -m two"):
        git = ["git", "-c", "user.name=n", "-c", "user.email=e", *command.split()]
        subprocess.run(git, cwd=checkout, check=True, timeout=30)
    (checkout / "file.txt").touch()
    start = [PROJECT / "scripts" / "start", "--port", "0", "--database", f"sqlite:///{tmp_path}/tasks.db"]
    with subprocess.Popen(start, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            printed = [server.stdout.readline() for _ in range(7)]
            url = printed[0].split()[-1]
            script = "".join(line for line in printed if line.startswith("  "))
            assert script.count("\n") == 3
            program = PROJECT / ".venv" / "bin" / "task-orchestrator"
            script += f'{program} show --json --url {url} "$task"\n'
            done = subprocess.run(
                ["bash", "-euc", script], cwd=checkout, stdout=subprocess.PIPE, text=True, timeout=60, check=True
            )
            task = json.loads(done.stdout.splitlines()[-1])
            assert (task["status"], task["result"]["output"]) == ("completed", "2\nfile.txt\n")
        finally:
            os.kill(server.pid, signal.SIGTERM)
        assert server.wait(10) == 0
