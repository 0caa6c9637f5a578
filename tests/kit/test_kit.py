"""`task-orchestrator kit`: what it writes into a project, and how it takes that away again."""

import asyncio
import json
import os
import pty
import tomllib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.client.processes import Done, run_cli, start

Kit = Callable[..., Awaitable[Done]]
FILES = {
    "claude-code": [".claude/settings.json", ".claude/skills/task-orchestrator/SKILL.md", ".mcp.json"],
    "codex": [".codex/config.toml", ".codex/hooks.json", "AGENTS.md"],
}
OTHERS = {
    ".mcp.json": b'{\r\n\t"mcpServers": {"db": {"command": "db"}}\r\n}',
    ".claude/settings.json": b'{"permissions": {"allow": ["Bash(ls:*)"]}, "hooks": {"PostToolUse": [\n  {"matcher": '
    b'"Write", "hooks": [{"type": "command", "command": "fmt \xc3\xa4"}]}]}}\n',
    ".codex/config.toml": b'model = "x"\n\n[mcp_servers.db]\ncommand = "db"',
    ".codex/hooks.json": b'{ "hooks": { } }',
    "AGENTS.md": b"# Rules\r\n\r\nBe kind.\r\n",
    "README.md": b"\xff\xfe not ours",
}


@pytest.fixture(params=["claude-code", "codex"])
def client(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def project(tmp_path: Path) -> Path:
    path = tmp_path / "a project"
    path.mkdir()
    return path


@pytest.fixture
def kit(client: str, project: Path) -> Kit:
    async def run(*options: str, **more: Any) -> Done:
        return await run_cli("kit", client, "--work-directory", str(project), *options, **more)

    return run


def tree(directory: Path) -> dict[str, bytes]:
    return {str(it.relative_to(directory)): it.read_bytes() for it in sorted(directory.rglob("*")) if it.is_file()}


def fill(directory: Path) -> None:
    for name, content in OTHERS.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(content)


async def test_what_it_writes_it_takes_away_and_twice_is_once(kit: Kit, client: str, project: Path) -> None:
    done = await kit("--yes")
    assert (done.code, done.err) == (0, "")
    written = tree(project)
    assert sorted(written) == FILES[client]
    again = await kit("--yes")
    assert (again.code, again.out) == (0, "Everything is there already.\n")
    assert tree(project) == written
    assert (await kit("--remove", "--yes")).code == 0
    assert os.listdir(project) == []
    nothing = await kit("--remove", "--yes")
    assert (nothing.code, nothing.out) == (0, "There is nothing of it to take away.\n")


async def test_what_others_wrote_stays_byte_for_byte(kit: Kit, client: str, project: Path) -> None:
    fill(project)
    before = tree(project)
    for name in FILES[client]:
        if (project / name).exists():
            (project / name).chmod(0o640)
    assert (await kit("--yes")).code == 0
    during = tree(project)
    assert during.keys() >= before.keys()
    assert {name for name in during if during[name] != before.get(name)} == set(FILES[client])
    assert (await kit("--remove", "--yes")).code == 0
    assert tree(project) == before
    assert {oct((project / it).stat().st_mode & 0o777) for it in FILES[client] if it in before} == {"0o640"}


async def test_without_a_terminal_and_without_yes_it_only_shows(kit: Kit, client: str, project: Path) -> None:
    fill(project)
    before = tree(project)
    done = await kit()
    assert (done.code, done.err) == (1, "nothing was changed: say --yes\n")
    assert tree(project) == before
    assert {line[6:] for line in done.out.splitlines() if line.startswith("+++ b/")} == set(FILES[client])
    told = (await kit("--json")).json
    assert not told["written"]
    assert "".join(it["diff"] for it in told["files"]) == done.out
    assert (await kit("--json", "--yes")).json == {**told, "written": True}
    assert (await kit("--json")).json == {"files": [], "written": False}


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"\n", 1), (b"no\n", 1)])
async def test_at_a_terminal_it_asks(client: str, project: Path, answer: bytes, code: int) -> None:
    ours, theirs = pty.openpty()
    try:
        arguments = ("kit", client, "--work-directory", str(project))
        process = await start(*arguments, url=None, stdin=theirs, stdout=-1, stderr=-1)
        os.write(ours, answer)
        _, err = await process.communicate()
    finally:
        os.close(ours)
        os.close(theirs)
    assert err.startswith(b"Change these files? [y/N] ")
    assert (process.returncode, bool(tree(project))) == (code, code == 0)


@pytest.mark.parametrize("client", ["claude-code"], indirect=True)
async def test_the_diff_is_one_that_patch_understands(kit: Kit, project: Path, tmp_path: Path) -> None:
    fill(project)
    (tmp_path / "diff").write_text((await kit()).out, newline="")
    other = tmp_path / "other"
    other.mkdir()
    fill(other)
    process = await start_git("apply", str(tmp_path / "diff"), cwd=other)
    assert process == 0
    assert (await kit("--yes")).code == 0
    assert tree(other) == tree(project)


async def start_git(*arguments: str, cwd: Path) -> int:
    process = await asyncio.create_subprocess_exec("git", *arguments, cwd=cwd)
    return await process.wait()


BROKEN = [
    ("claude-code", ".mcp.json", b"{", "is not JSON"),
    ("claude-code", ".mcp.json", b"", "is not JSON"),
    ("claude-code", ".mcp.json", b"[]", "is not a JSON object"),
    ("claude-code", ".mcp.json", b'{"mcpServers": []}', '"mcpServers" is not an object'),
    ("claude-code", ".mcp.json", b'{"mcpServers": {"task-orchestrator": {"command": "other"}}}', "is not from here"),
    ("claude-code", ".mcp.json", b"\xff", "is not UTF-8"),
    ("claude-code", ".mcp.json", b"[" * 100_000, "too deep"),
    ("claude-code", ".claude/settings.json", b'{"hooks": 1}', '"hooks" is not an object'),
    ("claude-code", ".claude/settings.json", b'{"hooks": {"PostToolUse": {}}}', "is not a list"),
    ("claude-code", ".claude/skills/task-orchestrator/SKILL.md", b"# Mine", "is not from here"),
    ("claude-code", ".claude", b"", "not a directory"),
    ("claude-code", ".mcp.json/x", b"", "is a directory"),
    ("codex", ".codex/config.toml", b"a = ", "is not TOML"),
    ("codex", ".codex/config.toml", b"mcp_servers = {}", "in one line"),
    ("codex", ".codex/config.toml", b"[mcp_servers.task-orchestrator]\n", "is not from here"),
    ("codex", "AGENTS.md", b"<!-- task-orchestrator kit: from here -->\n", "is missing"),
]


@pytest.mark.parametrize(("client", "name", "content", "reason"), BROKEN, indirect=["client"])
async def test_what_cannot_be_changed_is_told_in_a_line_and_nothing_is(
    kit: Kit, project: Path, name: str, content: bytes, reason: str
) -> None:
    (project / name).parent.mkdir(parents=True, exist_ok=True)
    (project / name).write_bytes(content)
    before = tree(project)
    done = await kit("--yes")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert done.err.startswith(f"nothing was changed: {project}/")
    assert reason in done.err
    assert tree(project) == before


async def test_a_file_that_may_not_be_written_is_left_and_so_are_the_others(
    client: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process: to the superuser every file is writable."""
    from task_orchestrator.kit import codex, writing
    from task_orchestrator.kit.parts import Unfit, changes

    fill(project)
    before = tree(project)
    found = list(changes(project, codex.parts(project, ["task-orchestrator"], None), remove=False))
    assert len(found) == 3
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "AGENTS.md")
    with pytest.raises(Unfit, match=r"AGENTS\.md: is not writable"):
        writing.write(project, found)
    monkeypatch.undo()
    assert tree(project) == before

    def full(path: Any, to: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(Unfit, match="no space left"):
        writing.write(project, found)
    assert tree(project) == before


async def test_a_directory_that_is_not_there_and_an_address_that_is_none(client: str, tmp_path: Path) -> None:
    done = await run_cli("kit", client, "--work-directory", str(tmp_path / "gone"), "--yes")
    assert (done.code, done.err) == (2, f"{tmp_path / 'gone'}: there is no such directory\n")
    for url in ("example.org", "http://u:p@example.org", "http://x/${HOME}", "http://x/'"):
        done = await run_cli("kit", client, "--work-directory", str(tmp_path), "--yes", "--url", url)
        assert (done.code, done.err.count("\n")) == (2, 1)
    assert os.listdir(tmp_path) == []


async def test_no_key_is_written(kit: Kit, project: Path) -> None:
    secret = "s3cret" * 6
    assert (await kit("--yes", environ={"TASK_ORCHESTRATOR_API_KEY": secret})).code == 0
    assert all(secret.encode() not in content for content in tree(project).values())


@pytest.mark.parametrize("client", ["claude-code"], indirect=True)
async def test_another_address_changes_what_is_ours_where_it_stands(kit: Kit, project: Path) -> None:
    fill(project)
    before = tree(project)
    await kit("--yes")
    assert (await kit("--yes", "--url", "https://queue.example/base")).code == 0
    servers = json.loads((project / ".mcp.json").read_text())["mcpServers"]
    assert servers["db"] == {"command": "db"}
    url = servers["task-orchestrator"]["env"]["TASK_ORCHESTRATOR_URL"]
    assert url == "${TASK_ORCHESTRATOR_URL:-https://queue.example/base}"
    hooks = json.loads((project / ".claude/settings.json").read_text())["hooks"]
    assert [len(hooks[event]) for event in ("PostToolUse", "PostToolUseFailure")] == [2, 1]
    assert hooks["PostToolUse"][1]["hooks"][0]["command"].endswith("hook --default-url https://queue.example/base")
    assert (await kit("--remove", "--yes")).code == 0
    assert tree(project) == before


@pytest.mark.parametrize("client", ["claude-code"], indirect=True)
async def test_a_hook_that_others_put_beside_ours_stays(kit: Kit, project: Path) -> None:
    await kit("--yes")
    settings = project / ".claude/settings.json"
    content = json.loads(settings.read_text())
    content["hooks"]["PostToolUse"][0]["hooks"].append({"type": "command", "command": "theirs"})
    settings.write_text(json.dumps(content))
    assert (await kit("--yes")).out == "Everything is there already.\n"
    assert (await kit("--remove", "--yes")).code == 0
    left = json.loads(settings.read_text())["hooks"]
    assert left["PostToolUse"] == [{"matcher": "*", "hooks": [{"type": "command", "command": "theirs"}]}]


@pytest.mark.parametrize("client", ["claude-code"], indirect=True)
async def test_the_skill_is_one(kit: Kit, project: Path) -> None:
    await kit("--yes")
    path = project / ".claude/skills/task-orchestrator/SKILL.md"
    _, head, body = path.read_text().split("---\n", 2)
    assert yaml.safe_load(head)["name"] == path.parent.name
    assert 50 < len(yaml.safe_load(head)["description"]) < 1024
    for tool in ("claim_next_task", "heartbeat_task", "complete_task", "fail_task", "release_task", "create_tasks"):
        assert f"`{tool}`" in body
    assert f"`{project}`" in body


@pytest.mark.parametrize("client", ["codex"], indirect=True)
async def test_the_server_of_codex_is_a_table_beside_the_others(kit: Kit, project: Path) -> None:
    fill(project)
    await kit("--yes", "--url", "http://queue.example:81")
    content = tomllib.loads((project / ".codex/config.toml").read_text())
    ours = content["mcp_servers"]["task-orchestrator"]
    assert content["mcp_servers"]["db"] == {"command": "db"}
    assert ours["args"] == ["mcp", "--url", "http://queue.example:81"]
    assert "TASK_ORCHESTRATOR_API_KEY" in ours["env_vars"]
