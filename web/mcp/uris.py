"""The addresses of resources. Each stands for a topic of the hub: a task, a work directory, or all of the queue."""

import re
from urllib.parse import quote, unquote

from dispatcher.fields import TASK_ID
from dispatcher.hub import EVERYTHING, Topic, about_directory, about_task
from web.bodies import Path
from web.codec import Invalid, structure

TASK = "task://"
DIRECTORY = "directory://"
QUEUE = "queue://stats"
TASK_TEMPLATE = TASK + "{task_id}"
DIRECTORY_TEMPLATE = DIRECTORY + "{+path}"
URI_CHARACTERS_MAX = 6400  # of the longest work directory with all of its characters escaped, and some more

_DRIVE = re.compile(r"/(?=[A-Za-z]:(?:[/\\]|%5[Cc]))")  # of directory:///C:/app


def topic_of(uri: str) -> Topic | None:
    """What the address stands for; None: nothing that could be here."""
    if uri == QUEUE:
        return EVERYTHING
    if uri.startswith(TASK) and TASK_ID.fullmatch(task_id := uri.removeprefix(TASK)):
        return about_task(task_id)
    if uri.startswith(DIRECTORY) and len(uri) <= URI_CHARACTERS_MAX:
        return _directory(uri.removeprefix(DIRECTORY))
    return None


def uri_of(work_directory: str) -> str:
    """`/srv/my app` is directory:///srv/my%20app, `C:\\app` is directory:///C:/app."""
    if not work_directory.startswith("/"):
        drive, _, rest = work_directory.partition(":")
        return f"{DIRECTORY}/{drive}:{quote(rest.replace(chr(92), '/'))}"
    return DIRECTORY + quote(work_directory)  # with its colons escaped: no drive is meant


def _directory(text: str) -> Topic | None:
    """Escaped or not, as in the address or as the template makes it of a path as it is."""
    text = text[1:] if _DRIVE.match(text) else text
    try:
        return about_directory(structure({"path": unquote(text, errors="strict")}, Path).path)
    except (UnicodeError, Invalid):
        return None
