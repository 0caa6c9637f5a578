"""Schemathesis against a running server: thousands of requests made of its own description, and chains of them.

It loads this module for the hooks below, which say what a schema cannot: rules that depend on what the server holds or
on several fields at once, and that nobody is to be kept waiting.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import schemathesis
from schemathesis.generation.meta import TestPhase

PROJECT = Path(__file__).parents[2]
STREAMS = ("stream", "events_task_events")  # they have no end
DIRECTORY = "/fuzzed"
HINDRANCES = (
    *("tags", "run_at", "delay_seconds", "depends_on", "expires_at", "status", "timeout_seconds", "max_retries"),
    *("lease_seconds", "claim_id", "retryable"),
)
# What follows the schema may still be refused, for these reasons and no others: what is stored, what a path means, and
# the few things that count as the same to JSON Schema and not here.
STATEFUL = {
    "IDEMPOTENCY_KEY_REUSED",
    "DEPENDENCY_NOT_FOUND",
    "DEPENDENCY_CYCLE",
    "FILTER_TOO_WIDE",
    "ALREADY_EXISTS",
    "PROMPT_MISMATCH",
    "UNAUTHORIZED",  # a session with a key that is none
    "RETRY_LIMIT_REACHED",
}
ACROSS_FIELDS = re.compile(
    r"must not contain '.*' twice"  # two spellings of one path
    r"|can only be given while the directory is paused, or to pause it"
    r"|is required with \w+"
    r"|cannot be given together with (follow|offset|after)"
    r"|must be at most \d+ together with q: .*"  # an offset
    r"|cannot be given for (text/csv|application/x-ndjson), which is the whole list"
    r"|must be the next_cursor of a page with the same filter and sort, as it was given"
    r"|must be before (now.*|'to')|must be longer: .*"  # of a range
    r"|cannot be given with admin, which is for all of them|must be in the future"
    r"|is no pattern of RE2: .*|must have one group at most: .*|must not match the empty text.*"
    r"|must not be (api_key|anonymous), which means another caller"
    r"|there is no version \d+"
    r"|is already that of tasks\[\d+\]"
    r"|must not contain integers beyond 64 bits, nor be nested 246 levels deep"
    r"|must be an address, or a network such as .*|must not go on behind its prefix: .*"
    r"|must have your own address, .*"  # an allow-list
    r"|must be scheme://host .*"  # a port that is none, or the usual one
    r"|must be a number"  # 1e-7 in a query
    r"|must be an integer, not a number"  # 1.0
    r'|must be an ETag of the task, such as "3"',  # schemathesis makes its own for a header of this name
    re.DOTALL,
)


def fuzz(url: str, key: str, workspace: Path, *options: str, seconds: float) -> subprocess.CompletedProcess[str]:
    """All checks on all operations but the streams; what it keeps goes into the workspace."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--checks", "all"]
    command += ["--header", f"Authorization: Bearer {key}", "--continue-on-failure", "--warnings", "off"]
    command += [f"--exclude-operation-id={name}" for name in STREAMS]
    environ = {**os.environ, "PYTHONPATH": str(PROJECT), "SCHEMATHESIS_HOOKS": "tests.web.fuzzing"}
    settings = {"cwd": workspace, "env": environ, "timeout": seconds, "check": False}
    return subprocess.run([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **settings)


@schemathesis.hook
def before_call(context, case, kwargs):
    """Nobody waits or follows, and of the feed there are pages. The chains get somewhere: all tasks lie in one
    directory and can be claimed at once, claims take any of them, and keep them."""
    if isinstance(case.query, dict) and case.query.get("follow") in (True, "true"):
        del case.query["follow"]
    if case.path == "/api/v1/events":
        case.headers.setdefault("Accept", "application/json")
    if case.path == "/api/v1/config" and isinstance(case.body, dict):
        _keep_to_oneself(case.body.get("changes"))
    meta = case.meta
    if meta and meta.phase.name is TestPhase.STATEFUL and meta.generation.mode.is_positive:
        drafts = case.body.get("tasks") if isinstance(case.body, dict) else None
        for said in (case.query, case.body, *(drafts if isinstance(drafts, list) else ())):
            if isinstance(said, dict):
                _ease(said)
    for claim in (case.query, case.body, case.body.get("claim_next") if isinstance(case.body, dict) else None):
        if isinstance(claim, dict) and type(wait := claim.get("wait_seconds")) in (int, float) and 0 <= wait <= 60:
            claim["wait_seconds"] = 0


def _keep_to_oneself(changes):
    """Nothing is sent to others, and nobody is kept waiting."""
    if isinstance(changes, dict) and str(changes.get("webhooks.url")).startswith("http"):
        changes["webhooks.url"] = None
    if isinstance(changes, dict) and changes.get("rate_limit.enabled") is True:
        changes["rate_limit.enabled"] = False


def _ease(said):
    for name in HINDRANCES:
        said.pop(name, None)
    if "work_directories" in said:
        said["work_directory"] = said.pop("work_directories")
    for name in ("work_directory", "work_path"):
        if name in said:
            said[name] = DIRECTORY


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """No failure: a request that follows the schema and is refused for what the server holds."""
    if type(failure).__name__ != "RejectedPositiveData":
        return True
    error = response.json()["error"]
    if error["code"] == "MALFORMED_REQUEST" and error["message"].startswith("Got more than 8190 bytes"):
        return False  # all parameters together make too long a line
    faults = [{"code": error["code"], **fault} for fault in error["details"].get("errors", [{"reason": ""}])]
    return not all(fault["code"] in STATEFUL or ACROSS_FIELDS.fullmatch(fault["reason"]) for fault in faults)
