"""What must be refused of those who steer tasks, many at once or one, who list them and who set the server up."""

from urllib.parse import quote

from tests.web.bad_values import (
    BIG,
    DEEP,
    EACH_ID,
    EACH_TAG,
    INSTANTS,
    NAMES,
    NUMBERS,
    PATHS,
    PROMPTS,
    QUERY_PATHS,
    REASONS,
    TAGS,
    words,
)


def each(name, *values):
    """In a filter that is right otherwise."""
    return [{name: value} for value in values]


SOME_PATHS = [f"/{number}" for number in range(101)]
OTHER_KINDS = [5, True, {}]  # than a list, or one of its items by itself
FILTER = {
    "filter.status": each("status", [], ["failed", "failed"], *OTHER_KINDS),
    "filter.status[0]": each("status", "", "x", "Failed", "failed,waiting", [5], [None], [["failed"]]),
    "filter.work_directory": each("work_directory", [], ["/a", "/a/"], SOME_PATHS, *OTHER_KINDS),
    "filter.work_directory[0]": each("work_directory", *PATHS, ["a"], [None], [5]),
    "filter.work_directory[1]": each("work_directory", ["/a", "b"]),
    "filter.priority": each("priority", [], ["low", "low"], *OTHER_KINDS),
    "filter.priority[0]": each("priority", "", "x", "Low", [5], [None]),
    "filter.tags": each("tags", [], *TAGS, *OTHER_KINDS),
    "filter.tags[0]": each("tags", "", *EACH_TAG),
    "filter.tag_mode": each("tag_mode", "", "All", 5, None, ["all"]),
    "filter.worker_id": each("worker_id", [], ["a", "a"], *OTHER_KINDS),
    "filter.worker_id[0]": each("worker_id", *NAMES, [5], [None]),
    "filter.created_after": each("created_after", *INSTANTS, 5, True, [], {}),
    "filter.created_before": each("created_before", *INSTANTS, 5, True, [], {}),
    "filter.q": each("q", "", "x" * 1001, "a\0b", 5, True, [], {}),
    "filter.colour": each("colour", "red", None),
}
MANY = {
    "ids": ("list", [[], ["a"] * 100_001]),
    "ids[0]": ("", EACH_ID),
    "ids[1]": ("", [["a", "a"], ["a", None, "b"]]),
    "filter": ("object null", []),
    **{field: ("", values) for field, values in FILTER.items()},
    "all": ("boolean", [0, "true"]),
    "dry_run": ("boolean", [0, "true"]),
    "reason": ("string null", REASONS),
}
BODIES = {
    "edit": {
        "tags": ("list", TAGS),
        "tags[0]": ("", EACH_TAG),
        "metadata": ("object", [{"a": "x" * 65_536}, {"a": 2**64}, {"a": DEEP}]),
        "priority": ("", ["", "urgent", "HIGH", " high", "0"]),
        "prompt": ("string", PROMPTS),
        "max_retries": ("integer", [-1, 101, 3.0, *BIG]),
        "run_at": ("null", INSTANTS),
    },
    "cancel": {"reason": ("string null", REASONS), "force": ("boolean", [0, "true"])},
    "retry": {},
    "delete": {},
    "cancel_many": MANY,
    "retry_many": MANY,
    "delete_many": MANY,
    "priority_many": MANY | {"priority": ("", ["", "urgent", "HIGH", " high", "0"])},
    "config": {
        "changes": ("object", [{}, {"a": "x" * 65_536}, {"a": 2**64}, {"a": DEEP}]),
        "changes.task.colour": ("", [{"task.colour": 1}]),
        "changes.task.max_task_retries": ("", [{"task.max_task_retries": value} for value in (-1, 101, 1.5, "1", [])]),
        "changes.server.port": ("", [{"server.port": 8081}]),
        "reason": ("string null", REASONS),
    },
    "rollback": {"version": ("integer", [-1, 1.0, *BIG]), "reason": ("string null", REASONS)},
}
REQUIRED = {
    **{endpoint: ["ids"] for endpoint in ("cancel_many", "retry_many", "delete_many")},
    "priority_many": ["ids", "priority"],
    "config": ["changes"],
    "rollback": ["version"],
}
OTHER = {"filter": "ids"}
EXCLUSIVE = [
    *((endpoint, {"filter": {"status": "waiting"}}, "filter") for endpoint in ("cancel_many", "priority_many")),
    ("delete_many", {"all": True}, "all"),
]

PAGE_LIMITS = [*NUMBERS, "0", "-1", "1001", "1.5", "1.0"]
OFFSETS = [*NUMBERS, "-1", "1.5", str(2**63)]
QUERY_INSTANTS = [quote(at) for at in INSTANTS]
QUERIES = {
    "list": {
        "status": ["failed,failed", ",".join(["failed"] * 101)],
        "status[0]": ["", *words("x Failed %20failed %ff null ,failed")],
        "status[1]": words("failed, failed,x"),
        "work_directory": ["/a,/a", "/a,/a/"],
        "work_directory[0]": QUERY_PATHS,
        "priority": ["low,low"],
        "priority[0]": ["", *words("x Low %ff ,low")],
        "tags": ["a,a", ",".join(map(str, range(51)))],
        "tags[0]": ["", ",a", "x" * 101, "%ff"],
        "tags[1]": ["a,", "a,,b", "a,%00"],
        "tag_mode": ["", "x", "All", "all,any"],
        "worker_id": ["a,a"],
        "worker_id[0]": ["", "x" * 101, "a%00b", "%ff"],
        "created_after": QUERY_INSTANTS,
        "created_before": QUERY_INSTANTS,
        "q": ["", "x" * 1001, "a%00b", "%ff"],
        "sort": ["", *words("x Created_at %2Bcreated_at --created_at created_at,updated_at")],
        "limit": PAGE_LIMITS,
        "offset": OFFSETS,
        "cursor": ["", "x", "x" * 501, "%ff", "W10"],
    },
    "events": {
        "after": OFFSETS,
        "work_directory": ["/a,/a"],
        "work_directory[0]": QUERY_PATHS,
        "types": ["task.created,task.created"],
        "types[0]": ["", *words("x task Task.created %ff ,task.created")],
        "types[1]": ["task.created,", "task.created,x"],
        "task_id": ["", "a%20b", "x" * 101, "%ff", "a%00b"],
        "limit": PAGE_LIMITS,
    },
    "task_events": {"after": OFFSETS},
    "config": {},
    "config_history": {"limit": PAGE_LIMITS, "offset": OFFSETS},
    "limits": {},
    "metrics": {},
    "openapi": {},
    "docs": {},
}
REPEATED = [
    ("list", "status=failed&status=waiting"),
    ("list", "q=a&q=a"),
    ("events", "types=task.created&types=task.failed"),
    ("task_events", "after=1&after=1"),
    ("config_history", "limit=1&limit=1"),
]
