"""What secrets look like. The patterns are those of RE2, whose time is linear in the text, whatever the pattern."""

import re

import re2

PATTERN_CHARACTERS_MAX, PATTERNS_MAX = 500, 30  # of one's own
_MEMORY_BYTES_MAX = 2**20  # of each of these while it searches

# Each of them is hidden as a whole.
SHAPES = (
    r"\btok_[A-Za-z0-9_-]{40,}",  # our own
    r"\b(?:AKIA|ASIA|AROA|AIDA|AGPA|ANPA|ANVA|ABIA|ACCA)[A-Z0-9]{16}\b",  # AWS
    r"\bgh[oprsu]_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{20,}",
    r"\bgl(?:pat|ptt|dt|rt|cbt|ft|soat|agent|imt)-[A-Za-z0-9_.-]{20,}",  # GitLab
    r"\bxox[a-z](?:-[A-Za-z0-9]+){2,}|\bxapp-[A-Za-z0-9-]{20,}|hooks\.slack\.com/services/[A-Za-z0-9/]+",
    r"\bAIza[A-Za-z0-9_-]{35}|\bya29\.[A-Za-z0-9_-]{20,}|\bGOCSPX-[A-Za-z0-9_-]{20,}",  # Google
    r"\b[prs]k_(?:live|test)_[A-Za-z0-9]{10,}|\bwhsec_[A-Za-z0-9+/=]{16,}",  # Stripe, webhooks
    r"\bsk-[A-Za-z0-9_-]{20,}",  # Anthropic, OpenAI and those who do as they do
    r"\bhf_[A-Za-z0-9]{30,}|\bnpm_[A-Za-z0-9]{36}|\bpypi-[A-Za-z0-9_-]{50,}|\bdckr_pat_[A-Za-z0-9_-]{20,}",
    r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",  # SendGrid
    r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",  # JSON Web Tokens
    r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|\z)",
)
KEY_BEGINS = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----")
KEY_ENDS = re.compile(r"-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----")

_NAME = (
    r"(?i)(?:password|passwd|passphrase|pwd|secret|api[_-]?key|(?:access|secret|private|account|signing|encryption)"
    r"[_-]?key(?:[_-]?id)?|credentials?|token)"
)
NAMES = re2.compile(rf"(?:.*[^A-Za-z]|.*[a-z])?{_NAME}")  # of what is secret as a whole, such as `db_password`

# Of each of them the group is hidden.
_VALUE = r"""[^\s"'\\&;,<>(){}\[\]]"""
MARKED = (
    rf"""{_NAME}[\\"']{{0,4}}\s*[=:]\s*\\?["']([^"'\\\n]{{3,}})""",
    rf"""{_NAME}[\\"']{{0,4}}\s*=\s*({_VALUE}{{3,}})""",
    rf"""(?i)\bauthorization[\\"']{{0,4}}\s*[=:]\s*[\\"']{{0,4}}(?:(?:basic|bearer|digest|token)\s+)?({_VALUE}{{6,}})""",
    rf"(?i)\bbearer\s+({_VALUE}{{12,}})",
    r"""\b[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@"'<>?#]*:([^\s/@"'<>]+)@""",
)
# What people write, but our own messages do so too, and mean nothing by it.
SAID = (rf"{_NAME}\s*:\s*({_VALUE}{{6,}})",)


def own_pattern(pattern: str) -> str:
    """In the syntax of RE2; with one group only that is hidden. It must not match the empty text."""
    try:
        compiled = compiled_own(pattern)
    except re2.error as error:
        why = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        raise ValueError(f"is no pattern of RE2: {why[:100]}") from None
    if compiled.groups > 1:
        raise ValueError("must have one group at most: write the others as (?:…)")
    if compiled.search("") is not None:
        raise ValueError("must not match the empty text")
    return pattern


def by_line(text: str) -> list[str]:
    """For commas are part of many patterns."""
    return [line for line in text.splitlines() if line] or [text]


def compiled_own(pattern: str) -> "re2._Regexp[str]":
    options = re2.Options()
    options.log_errors, options.max_mem = False, _MEMORY_BYTES_MAX
    return re2.compile(pattern, options)
