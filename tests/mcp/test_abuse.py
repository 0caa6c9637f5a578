"""Somebody attacks the server by way of MCP, and others hardly notice."""

from collections.abc import Iterator

import pytest

from tests.conftest import ServerProcess
from tests.mcp.abuse import ATTACKS
from tests.web.abuse import ENVIRON, Attack, about, launch
from tests.web.honest import watching

SILENT_MS = 5000
GROWTH_BYTES_MAX = 512 * 2**20


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path_factory.mktemp("attacked"), environ=ENVIRON).start()
    yield server
    assert server.terminate() == 0


@pytest.mark.parametrize("attack", ATTACKS, ids=about)
async def test_an_attack_over_mcp_is_fended_off(attacked: ServerProcess, attack: Attack) -> None:
    with watching(attacked.pid, attacked.port) as figures:
        await launch(attack, attacked.port)
    print(figures)
    assert figures.failed == 0
    assert figures.slowest_ms < SILENT_MS
    assert figures.memory_peak - figures.memory_before < GROWTH_BYTES_MAX
    log = attacked.log.read_text()
    assert "an error nobody foresaw" not in log
    assert "Traceback" not in log
