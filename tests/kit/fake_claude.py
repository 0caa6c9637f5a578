"""A `claude` that does as the kit tells it: starts the server of .mcp.json, works the queue off, and runs the hooks of
.claude/settings.json after every tool. Whatever is not as it should be ends it."""

import json
import os
import re
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

PROJECT = Path.cwd()
WORK_SECONDS = 0.3


def expanded(text: str) -> str:
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda match: os.environ.get(match[1]) or match[2], text)


class Claude:
    def __init__(self) -> None:
        entry = json.loads((PROJECT / ".mcp.json").read_text())["mcpServers"]["task-orchestrator"]
        env = {**os.environ, **{name: expanded(value) for name, value in entry["env"].items()}}
        command = [entry["command"], *entry["args"]]
        self.server = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.ids = count()
        client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "fake", "version": "1"}}
        self.ask("initialize", client)
        self.say({"method": "notifications/initialized"})

    def say(self, message: dict[str, Any]) -> None:
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")

    def ask(self, method: str, params: dict[str, Any]) -> Any:
        assert self.server.stdout is not None
        number = next(self.ids)
        self.say({"id": number, "method": method, "params": params})
        for line in self.server.stdout:
            answer = json.loads(line)
            if answer.get("id") == number:
                return answer["result"]
        raise EOFError

    def tool(self, name: str, **arguments: Any) -> Any:
        answer = self.ask("tools/call", {"name": name, "arguments": arguments})
        assert not answer.get("isError"), answer
        self.hook(f"mcp__task-orchestrator__{name}", arguments, answer["content"])
        return json.loads(answer["content"][0]["text"])

    def hook(self, tool: str, arguments: dict[str, Any], answer: Any) -> None:
        settings = json.loads((PROJECT / ".claude/settings.json").read_text())
        event = {"session_id": f"fake-{os.getpid()}", "cwd": str(PROJECT), "hook_event_name": "PostToolUse"}
        event |= {"tool_name": tool, "tool_input": arguments, "tool_response": answer}
        for group in settings["hooks"]["PostToolUse"]:
            assert group["matcher"] == "*"
            for hook in group["hooks"]:
                command = ["sh", "-c", hook["command"]]
                done = subprocess.run(command, input=json.dumps(event), text=True, capture_output=True, check=True)
                assert (done.stdout, done.stderr) == ("", ""), done

    def work_off(self) -> int:
        skill = (PROJECT / ".claude/skills/task-orchestrator/SKILL.md").read_text()
        directory = re.findall("The `work_directory` is `(.*?)`", skill)[0]
        done = 0
        while True:
            task = self.tool("claim_next_task", work_directory=directory, wait_seconds=2).get("task")
            if task is None:
                by_status = self.tool("queue_stats", work_directory=directory)["by_status"]
                if not by_status.get("waiting") and not by_status.get("working"):
                    return done
                continue
            time.sleep(WORK_SECONDS)
            name = re.findall(r"\w+\.\w+", task["prompt"])[-1 if "review" in task["prompt"] else 0]
            (PROJECT / name).write_text(task["prompt"])
            self.hook("Write", {"file_path": name}, {"success": True})
            before = sorted(str(each["result"]["wrote"]) for each in task.get("dependencies", []))
            held = {"task_id": task["task_id"], "lease_token": task["lease_token"]}
            self.tool("complete_task", **held, result={"wrote": name, "after": before})
            print(name, flush=True)
            done += 1


assert sys.argv[1] == "-p"
claude = Claude()
print(f"{claude.work_off()} done", flush=True)
assert claude.server.stdin is not None
claude.server.stdin.close()
sys.exit(claude.server.wait(10))
