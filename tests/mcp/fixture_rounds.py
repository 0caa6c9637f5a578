"""The tools of the fixture that ask the client in rounds, as revision 2026-07-28 does: each round is a request of its
own, whose answer says what is still wanted.
"""

from typing import Any

import mcp_types as types

from tests.mcp.fixture_tools import Answer, FixtureTool, says, strings, text, tool

ROUNDS: dict[str, FixtureTool] = {}


def form(message: str, *names: str) -> types.ElicitRequest:
    return types.ElicitRequest(params=types.ElicitRequestFormParams(message=message, requested_schema=strings(*names)))


def sampling(prompt: str) -> types.CreateMessageRequest:
    message = types.SamplingMessage(role="user", content=text(prompt))
    return types.CreateMessageRequest(params=types.CreateMessageRequestParams(messages=[message], max_tokens=100))


NAME = form("What is your name?", "name")
CAPITAL = sampling("What is the capital of France?")
FOLDERS = types.ListRootsRequest()


def asks(name: str, state: str | None = None, **wanted: types.InputRequest) -> None:
    """A tool that wants all of these before it answers; with a state, that it comes back as it was given."""

    @tool(name, there=ROUNDS)
    async def ask(_: object, params: types.CallToolRequestParams) -> Answer:
        given = params.input_responses or {}
        if any(it not in given for it in wanted) or params.request_state != state:
            return types.InputRequiredResult(input_requests=wanted, request_state=state)
        return says(", ".join([*(told(it) for it in given.values()), *(["state-ok"] if state else [])]))


def told(given: types.InputResponse) -> str:
    """In words what the client has answered."""
    match given:
        case types.ElicitResult():
            return f"{given.action}: {given.content}"
        case types.ListRootsResult():
            return ", ".join(str(it.uri) for it in given.roots)
        case _:
            return str(given.content)


asks("test_input_required_result_elicitation", user_name=NAME)
asks("test_input_required_result_sampling", capital_question=CAPITAL)
asks("test_input_required_result_list_roots", client_roots=FOLDERS)
asks("test_input_required_result_request_state", "asked once", confirm=form("Please confirm", "ok"))
asks("test_input_required_result_tampered_state", "asked once", confirm=form("Please confirm", "ok"))
asks(
    "test_input_required_result_multiple_inputs",
    "asked once",
    user_name=NAME,
    greeting=sampling("Generate a greeting"),
    client_roots=FOLDERS,
)


@tool("test_input_required_result_multi_round", there=ROUNDS)
async def ask_twice(_: object, params: types.CallToolRequestParams) -> Answer:
    given = params.input_responses or {}
    if params.request_state == "second" and "step2" in given:
        return says(f"done: {told(given['step2'])}")
    if params.request_state == "first" and "step1" in given:
        wanted = {"step2": form("Step 2: What is your favorite color?", "color")}
        return types.InputRequiredResult(input_requests=wanted, request_state="second")
    wanted = {"step1": form("Step 1: What is your name?", "name")}
    return types.InputRequiredResult(input_requests=wanted, request_state="first")


@tool("test_input_required_result_capabilities", there=ROUNDS)
async def ask_what_can_be_answered(ctx: Any, _: object) -> Answer:
    can = ctx.session.client_capabilities or types.ClientCapabilities()
    possible: dict[str, tuple[object, types.InputRequest]] = {
        "user_name": (can.elicitation, NAME),
        "capital_question": (can.sampling, CAPITAL),
        "client_roots": (can.roots, FOLDERS),
    }
    wanted = {name: request for name, (is_known, request) in possible.items() if is_known is not None}
    return types.InputRequiredResult(input_requests=wanted) if wanted else says("nothing can be asked")


def prompt_that_asks(params: types.GetPromptRequestParams) -> types.GetPromptResult | types.InputRequiredResult:
    if (given := (params.input_responses or {}).get("user_context")) is None:
        wanted = {"user_context": form("What context should the prompt use?", "context")}
        return types.InputRequiredResult(input_requests=wanted)
    return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=text(told(given)))])
