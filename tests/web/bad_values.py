"""What must be refused, endpoint by endpoint and field by field."""

from urllib.parse import quote


def words(text):
    return text.split()


MEBIBYTE = 2**20
EMOJI = "\N{PILE OF POO}"

KINDS = {"string": "x", "integer": 5, "number": 1.5, "boolean": True, "null": None, "list": [], "object": {}}
NUMBER = "integer number"

PATHS = ["", " ", *words(r". relative/path ./a ~/a C: C:a file:///a /.. /a/../b /a/.. C:\a\..\b")]
PATHS += ["/a\0b", "/a\nb", "/a\tb", "/a\x7f", "/a\x85b", "/" + "a" * 512, "/" + EMOJI * 512]
PROMPTS = ["", " ", "\n\t ", "\N{NO-BREAK SPACE}", "a\0b", "x" * 10_001, EMOJI * 10_001]
ERRORS = ["a\0b", "x" * 16_385, EMOJI * 4097]
INSTANTS = ["", "tomorrow", "2026-01-01", "2026-01-01T00:00:00", "2026-02-30T00:00:00Z", "2026-01-01T00:00:60Z"]
INSTANTS += ["1969-12-31T23:59:59Z", "10000-01-01T00:00:00Z", "2026-01-01T00:00:00+99:00", "1767225600"]
BIG = [10**18, 10**30, -(10**30), 1e308]
SECONDS = [0, -1, 31_536_001, *BIG]
LEASES = [0, -0.1, 86_401, *BIG]
WAITS = [-1, 60.001, *BIG]
DELAYS = [-1, 31_536_001, *BIG]
NAMES = ["", "x" * 101, "a\0b"]
TOKENS = ["", "x" * 201, "a\0b"]
TAGS = [["a", "a"], ["a", "b", "a"], [f"tag {number}" for number in range(51)], ["a"] * 60]
EACH_TAG = [[""], ["x" * 101], ["a\0b"], [5], [None], [["a"]], [{}]]
DEEP: list = []
for _ in range(300):
    DEEP = [DEEP]
DEPENDS = [["a", "a"], [f"id{number}" for number in range(101)]]
EACH_ID = [[""], ["ref:a"], ["a b"], ["\N{PILE OF POO}"], ["x" * 101], ["a\0b"], [5], [None], [["a"]], [{}]]
JSON = [2**64, -(2**63) - 1, {"a": [10**25]}, DEEP, {"a": DEEP}, "x" * MEBIBYTE, ["x" * 1024] * 1024]

REASONS = ["a\0b", "x" * 501]


def claiming(name, *values):
    """In a `claim_next` that is right otherwise."""
    return [{"work_directory": "/a", name: value} for value in values]


NEXT = {
    "worker_id": claiming("worker_id", 5, *NAMES),
    "wait_seconds": claiming("wait_seconds", "1", None, *WAITS),
    "lease_seconds": claiming("lease_seconds", "1", *LEASES),
    "tags": claiming("tags", "a", None, *TAGS),
    "claim_id": claiming("claim_id", 5, *TOKENS),
    "limit": claiming("limit", 1),
    "work_directories": claiming("work_directories", ["/a"]),
}

# What each field of a body takes, and what it refuses although it has a right type. `tags[0]`, `progress.message`:
# the values are those of `tags` or `progress`, the name is what the fault must say.
BODIES = {
    "create": {
        "work_directory": ("string", PATHS),
        "prompt": ("string", PROMPTS),
        "priority": ("", ["", "urgent", "HIGH", " high", "0"]),
        "tags": ("list", TAGS),
        "tags[0]": ("", EACH_TAG),
        "tags[1]": ("", [["a", ""], ["a", None, "b"]]),
        "max_retries": ("integer null", [-1, 101, 3.0, *BIG]),
        "auto_retry": ("boolean", [0, "true"]),
        "retry_delay_seconds": (NUMBER, [-1, 3600.5, *BIG]),
        "timeout_seconds": (f"{NUMBER} null", SECONDS),
        "run_at": ("null", INSTANTS),
        "delay_seconds": (f"{NUMBER} null", DELAYS),
        "expires_at": ("null", INSTANTS),
        "depends_on": ("list", DEPENDS),
        "depends_on[0]": ("", EACH_ID),
        "depends_on[1]": ("", [["a", ""], ["a", None, "b"]]),
        "on_dependency_failure": ("", ["", "Wait", "fail", " run", "wait,run"]),
        "metadata": ("object", [{"a": "x" * 65_536}, {"a": 2**64}, {"a": DEEP}]),
    },
    "batch": {
        "tasks": ("list", [[], [{}] * 1001]),
        "atomic": ("boolean", [0, "true"]),
    },
    "claim": {
        "work_directory": ("string null", PATHS),
        "work_directories": ("list null", [[], ["/a", "/a"], ["/a", "/a/"], [f"/{number}" for number in range(101)]]),
        "work_directories[1]": ("", [["/a", "b"], ["/a", None], ["/a", ["/b"]], ["/a", "/../b"]]),
        "worker_id": ("string null", NAMES),
        "limit": ("integer", [0, -1, 101, 1.0, *BIG]),
        "wait_seconds": (NUMBER, WAITS),
        "lease_seconds": (f"{NUMBER} null", LEASES),
        "tags": ("list", TAGS),
        "tags[0]": ("", EACH_TAG),
        "claim_id": ("string null", TOKENS),
    },
    "heartbeat": {
        "lease_token": ("string", TOKENS),
        "lease_seconds": (f"{NUMBER} null", LEASES),
        "progress": ("object null", []),
        "progress.percent": ("", [{"percent": value} for value in (-1, 100.1, "5", True, [], {}, *BIG)]),
        "progress.message": ("", [{"message": value} for value in (5, True, [], {}, "a\0b", "x" * 501)]),
        "progress.colour": ("", [{"colour": "red"}, {"percent": 5, "colour": None}]),
        "metadata": ("object null", [{"a": "x" * 65_536}, {"a": 2**64}, {"a": DEEP}]),
    },
    "complete": {
        "original_prompt": ("string null", PROMPTS),
        "result": ("string integer number boolean null list object", JSON),
        "status": ("", ["", "waiting", "working", "cancelled", "Completed"]),
        "error_message": ("string null", ERRORS),
        "worker_id": ("string null", NAMES),
        "lease_token": ("string null", TOKENS),
        "claim_next": ("object null", []),
        "claim_next.work_directory": ("", [{}, *({"work_directory": path} for path in (5, None, *PATHS))]),
        **{f"claim_next.{name}": ("", values) for name, values in NEXT.items()},
    },
    "fail": {
        "error_message": ("string", ERRORS),
        "retryable": ("boolean null", []),
        "retry_after_seconds": (f"{NUMBER} null", DELAYS),
        "lease_token": ("string null", TOKENS),
    },
    "release": {
        "lease_token": ("string", TOKENS),
        "delay_seconds": (f"{NUMBER} null", DELAYS),
        "reason": ("string null", REASONS),
    },
    "logs": {
        "lines": ("list", [[], ["a"] * 1001]),
        "lines[0]": ("", [["a\0b"], ["x" * 8193], [EMOJI * 2049], [5], [None], [["a"]], [{}]]),
        "lines[1]": ("", [["a", None, "b"]]),
        "lease_token": ("string null", TOKENS),
    },
    "rules": {
        "max_working": ("integer null", [0, -1, 100_001, 1.0, *BIG]),
        "paused": ("boolean", [0, "true"]),
        "paused_reason": ("string null", REASONS),
        "paused_until": ("null", INSTANTS),
    },
    "pause": {
        "paused_reason": ("string null", REASONS),
        "paused_until": ("null", INSTANTS),
    },
    "resume": {},
    "drain": {},
}
RULES = ["rules", "pause", "resume", "drain"]  # about the work directory that their query names
REQUIRED = {
    "batch": ["tasks"],
    "create": ["work_directory", "prompt"],
    "claim": ["work_directory"],
    "heartbeat": ["lease_token"],
    "fail": ["error_message"],
    "logs": ["lines"],
    "release": ["lease_token"],
}
OTHER = {"work_directories": "work_directory"}  # what must not stand beside it
UNKNOWN = ["colour", "Prompt", "created_by", "task_id", "version", "a b", "__class__", "\N{PILE OF POO}"]

NUMBERS = ["", *words("abc NaN Infinity -Infinity 1e3 0x1 %201 +1 %2B1 1_0 01 null true 1,2 [1]"), "1" * 25]
NUMBERS += [quote("\N{FULLWIDTH DIGIT ONE}")]
QUERY_PATHS = [quote(path) for path in PATHS if len(path) < 513] + [quote("/" + "a" * 512)]
QUERY_PATHS += ["%ff", "/%ff", "/a%c0%af", "/%ed%a0%80", "%", "%2", "%zz", "+/a", "/a%00", "/a%0d%0a", "null"]
CLAIMING = {
    "work_path": QUERY_PATHS,
    "worker_id": ["", "x" * 101, "a%00b", "%ff", "%ed%a0%80"],
    "lease_seconds": [*NUMBERS, "0", "-1", "86401"],
    "tags": ["a,a", ",".join(map(str, range(51)))],
    "tags[0]": ["", ",a", "x" * 101, "%ff"],
    "tags[1]": ["a,", "a,,b", "a,%ff", "a,%00"],
}
STREAMING = {"capacity": [*NUMBERS, "0", "-1", "101", "1.0", "1.5"], "mode": ["", "x", "Assign", "notify,assign"]}
QUERIES = {
    "next": CLAIMING | {"wait_seconds": [*NUMBERS, "-1", "60.001", "61"]},
    "stream": CLAIMING | STREAMING,
    "show": {
        "wait_seconds": [*NUMBERS, "-1", "61"],
        "until": ["", "x", "Terminal", "terminal,terminal", "completed"],
        "include": ["logs,logs", "history,logs,history"],
        "include[0]": ["", "x", "Logs", "%20logs", "%ff", "null", ",logs"],
        "include[1]": ["logs,", "logs,x", "history,logs%00"],
    },
    "history": {
        "after": [*NUMBERS, "-1", "1.5", str(2**63)],
        "limit": [*NUMBERS, "0", "-1", "1001", "1.5", "1.0"],
    },
    "logs": {
        "after": [*NUMBERS, "-1", "1.5", str(2**63)],
        "limit": [*NUMBERS, "0", "-1", "1001", "1.5", "1.0"],
        "attempt": [*NUMBERS, "0", "-1", "1.5", str(2**63)],
        "follow": ["", *words("0 1 1.5 True yes null true,true %20true")],
    },
    "workers": {},
    "explain": {},
    "directories": {},
    "statistics": {
        "from": [*map(quote, INSTANTS), "2999-01-01T00:00:00Z", "2026-01-01T00:00:00%2B00:00,2026-01-02T00:00:00Z"],
        "to": [*map(quote, INSTANTS)],
        "bucket": ["", "week", "Hour", "minute,hour", "3600"],
        "work_directory": QUERY_PATHS,
    },
    "health": {},
    "live": {},
    "ready": {},
}

NOT_JSON = rb"""
    { } [ nul NaN {'prompt':1} {}{} {}x {}, {,} {"a":1,} {"a"1} {a:1} [01] {"a":NaN} {"a":Infinity} {"a":-Infinity}
    {"a":1e999} {"a":0x10} {"a":.5} {"a":1.} {"a":+1} {"a":--1} {"a":"\x41"} {"a":"\ud800"} {"a":"\udc00\ud800"} {"a":"
    //{} {}/**/ {"a":undefined} {"a":True} """.split()
NOT_JSON += [
    b" ",
    b"\xff",
    b'{"prompt":"\xff"}',
    b'{"\xc3":1}',
    b'{"a":"\xed\xa0\x80"}',
    b"\xef\xbb\xbf{}",
    b"\0",
    b'{"a":"\n"}',
]
NOT_JSON += ["{}".encode("utf-16"), b"[" * 100_000, b'{"a":' * 100_000, b'{"a":' + b"9" * 400 + b"}"]

UNKNOWN_PARAMETERS = ["x", "from_", "Work_path", "work_path[]", "", "%ff", "%ed%a0%80", "a%00b", "%zz", "a" * 1000]
REPEATED = [
    ("next", "work_path=/a&work_path=/a"),
    ("next", "tags=a&tags=b"),
    ("next", "wait_seconds=0&wait_seconds=0"),
    ("next", "worker_id=a&worker%5Fid=b"),
    ("stream", "work_path=/a&work_path=/b"),
    ("stream", "mode=notify&mode=notify"),
    ("show", "until=terminal&until=terminal"),
    ("show", "include=logs&include=history"),
    ("logs", "follow=true&follow=true"),
    ("list", "limit=1&limit=2"),
    ("statistics", "bucket=day&bucket=hour"),
]
EXCLUSIVE = [
    ("create", {"run_at": "2999-01-01T00:00:00Z", "delay_seconds": 1}, "delay_seconds"),
    ("claim", {"work_directories": ["/a"]}, "work_directories"),
    ("rules", {"paused_reason": "why"}, "paused_reason"),
    ("rules", {"paused": False, "paused_reason": "why"}, "paused_reason"),
    ("rules", {"paused": False, "paused_until": "2999-01-01T00:00:00Z"}, "paused_until"),
]
TYPES = words("text/plain application/x-www-form-urlencoded multipart/form-data text/json application/jsonp */*")
IDS = [*words("x 0 %ff %ed%a0%80 %00 %zz a%2Fb ..%2f %0d%0a ' 0190- %F0%9F%92%A9 -1"), "x" * 5000]
