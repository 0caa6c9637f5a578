"""What a person may have an agent begin with: work tasks off, hand one in, look at what has failed."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any

import mcp_types as types
from annotated_types import MaxLen, MinLen
from attrs import NOTHING, asdict, fields, frozen

from dispatcher.caller import Scope
from dispatcher.fields import Listed, Prompt, Rule, Tag, WorkDirectory, WorkerId, by_comma, distinct
from dispatcher.record import Filter
from dispatcher.task import Status, Task
from web.access.calling import caller
from web.access.door import check_scope
from web.access.redaction import seen
from web.codec import Text, encode, structure
from web.mcp.answers import compact
from web.mcp.errors import Context, answering, wrong
from web.mcp.texts import NO_FAILURES, REVIEW_FAILURES, SUBMIT_TASK, WORK_LOOP
from web.service import Service

FAILURES_MAX = 20  # tasks that are told of
CHARACTERS_MAX = 500  # of the error of each, and of its prompt

Tags = Annotated[tuple[Tag, ...], Listed(by_comma), MinLen(1), MaxLen(50), Rule(distinct)]

ABOUT: Mapping[str, str] = {
    "work_directory": "Absolute path of the directory to work in.",
    "worker_id": "The agent's own name, always the same.",
    "tags": "Tags of the tasks, parted by commas.",
    "goal": "What is to be achieved.",
}


@frozen(kw_only=True)
class WorkLoop:
    work_directory: WorkDirectory
    worker_id: WorkerId | None = None
    tags: Tags = ()


@frozen(kw_only=True)
class SubmitTask:
    work_directory: WorkDirectory
    goal: Prompt
    tags: Tags = ()


@frozen(kw_only=True)
class ReviewFailures:
    work_directory: WorkDirectory | None = None
    tags: Tags = ()


async def _work_loop(service: Service, asked: WorkLoop) -> str:
    caller.get().enter(asked.work_directory)
    claim = encode(compact(dict[str, Any], asdict(asked))).decode()
    return WORK_LOOP.format(work_directory=asked.work_directory, claim=claim)


async def _submit_task(service: Service, asked: SubmitTask) -> str:
    caller.get().enter(asked.work_directory)
    said = {"work_directory": asked.work_directory, "tags": asked.tags}
    create = encode(compact(dict[str, Any], said)).decode()
    return SUBMIT_TASK.format(work_directory=asked.work_directory, goal=asked.goal, create=create)


async def _review_failures(service: Service, asked: ReviewFailures) -> str:
    path = asked.work_directory
    if path is not None:
        caller.get().enter(path)
    only = Filter(statuses=(Status.FAILED,), work_directories=() if path is None else (path,), tags=asked.tags)
    page = await service.record.page(only, "-updated_at", FAILURES_MAX)
    where = f" of {path}" if path is not None else ""
    if not page.tasks:
        return NO_FAILURES.format(where=where)
    return REVIEW_FAILURES.format(
        total=page.total if page.total_is_exact else f"at least {page.total}",
        where=where,
        newest="" if page.end is None else f"; these are the last {len(page.tasks)}",
        failures=await asyncio.to_thread(_failures, page.tasks),
    )


def _failures(tasks: Sequence[Task]) -> str:
    return encode([_failure(task) for task in tasks]).decode()


def _failure(task: Task) -> dict[str, Any]:
    view = {
        "task_id": task.task_id,
        "work_directory": task.work_directory,
        "error_message": _cut(task.error_message or ""),
        "prompt": _cut(task.prompt),
        "attempts": task.attempt,
        "retries_left": max(0, task.max_retries - task.retry_count),
        "tags": task.tags,
    }
    return compact(dict[str, Any], view)


def _cut(text: str) -> str:
    text = seen(text)
    return text if len(text) <= CHARACTERS_MAX else f"{text[: CHARACTERS_MAX - 1]}…"


@frozen
class Template:
    """A prompt before anybody has asked for it. `scope`: what a key must be for that asks."""

    name: str
    title: str
    description: str
    asks: type
    scope: Scope
    write: Callable[[Service, Any], Awaitable[str]]


_TEMPLATES = (
    Template("work_loop", "Work tasks off", "Work off the tasks of a directory.", WorkLoop, "work", _work_loop),
    Template("submit_task", "Submit a task", "Hand in a task for a directory.", SubmitTask, "submit", _submit_task),
    Template(
        "review_failures",
        "Review failures",
        "Look at the tasks that have failed, and what to do about them.",
        ReviewFailures,
        "read",
        _review_failures,
    ),
)
TEMPLATES: Mapping[str, Template] = {template.name: template for template in _TEMPLATES}


@answering
async def list_prompts(
    service: Service, ctx: Context, params: types.PaginatedRequestParams | None
) -> types.ListPromptsResult:
    """Those that are for the caller's key."""
    if params and params.cursor is not None:
        raise wrong("cursor", "must not be given: there is one page")
    return types.ListPromptsResult(prompts=[_told(it) for it in TEMPLATES.values() if caller.get().may(it.scope)])


@answering
async def get_prompt(service: Service, ctx: Context, params: types.GetPromptRequestParams) -> types.GetPromptResult:
    template = template_of(params.name)
    check_scope(template.scope)
    asked: Any = structure({name: Text(it) for name, it in (params.arguments or {}).items()}, template.asks)
    content = types.TextContent(type="text", text=await template.write(service, asked))
    return types.GetPromptResult(
        description=template.description, messages=[types.PromptMessage(role="user", content=content)]
    )


def template_of(name: str) -> Template:
    if (template := TEMPLATES.get(name)) is None:
        raise wrong("name", f"must be one of {', '.join(TEMPLATES)}")
    return template


def _told(template: Template) -> types.Prompt:
    arguments = [
        types.PromptArgument(name=it.name, description=ABOUT[it.name], required=it.default is NOTHING)
        for it in fields(template.asks)
    ]
    return types.Prompt(name=template.name, title=template.title, description=template.description, arguments=arguments)
