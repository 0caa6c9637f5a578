"""What a command prints, from the worker that runs it to whoever reads it."""

import asyncio
from asyncio.subprocess import PIPE
from contextlib import suppress

import pytest

from task_orchestrator import Client, Refused, Unreachable, printing
from task_orchestrator.printing import LEFT_OUT, Printing
from tests.client.processes import PATIENCE_SECONDS, start, until
from tests.client.test_worker import ended, submit


async def texts(client, task_id):
    return [line["line"] for line in (await client.logs(task_id))["lines"]]


async def test_what_a_command_prints_is_in_the_log_while_it_runs(server, client, worker, directory):
    """And all of it when it has ended, whatever its outcome; an attempt at a time."""
    script = "echo out; echo err >&2; while [ ! -e gate ]; do sleep 0.02; done; printf 'the end'; exit 3"
    task_id = await submit(client, directory, script)
    await worker(server.url, directory)
    assert sorted(await until(lambda: texts(client, task_id))) == ["err", "out"]
    assert (await client.get(task_id))["status"] == "working"
    (directory / "gate").touch()
    assert (await ended(client, task_id))["status"] == "failed"
    assert (await texts(client, task_id))[2:] == ["the end"]
    await client.retry(task_id)
    await until(lambda: _attempt_ended(client, task_id, 2))
    second = (await client.logs(task_id, attempt=2))["lines"]
    assert sorted(line["line"] for line in second) == ["err", "out", "the end"]


async def _attempt_ended(client, task_id, attempt):
    task = await client.get(task_id)
    return (task["status"], task["attempt"]) == ("failed", attempt)


async def test_a_worker_may_keep_it_to_itself(server, client, worker, directory):
    task_id = await submit(client, directory, "echo secret")
    await worker(server.url, directory, "sh", "--no-logs")
    assert (await ended(client, task_id))["result"]["output"] == "secret\n"
    assert await texts(client, task_id) == []


async def test_the_command_line_prints_it(cli, client, directory):
    """The texts, or the lines as JSON; page after page."""
    task_id = await submit(client, directory, "x")
    (held,) = await client.claim(work_directory=str(directory))
    for number in range(3):
        await client.log(task_id, [f"{number}"] * 1000, lease_token=held["lease_token"])
    await client.release(task_id, held["lease_token"])
    (held,) = await client.claim(work_directory=str(directory))
    await client.log(task_id, ["second"], lease_token=held["lease_token"])
    done = await cli("logs", task_id)
    assert (done.code, done.out.split()) == (0, ["0"] * 1000 + ["1"] * 1000 + ["2"] * 1000 + ["second"])
    done = await cli("logs", task_id, "--attempt", "2", "--json")
    assert (done.json["number"], done.json["attempt"], done.json["line"]) == (3001, 2, "second")
    assert (await cli("logs", "nobody")).code == 1
    assert (await cli("logs", task_id, "--attempt", "0")).code == 2


async def test_the_command_line_follows_it_to_the_end(server, client, directory):
    """Over a restart of the server; nothing is printed twice."""
    task_id = await submit(client, directory, "x")
    (held,) = await client.claim(work_directory=str(directory))
    await client.log(task_id, ["one"], lease_token=held["lease_token"])
    process = await start("logs", task_id, "--follow", url=server.url, stdout=PIPE)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS), Client(server.url) as later:
            assert await process.stdout.readline() == b"one\n"
            await asyncio.to_thread(server.terminate)
            await asyncio.to_thread(server.start)
            await later.log(task_id, ["two"], lease_token=held["lease_token"])
            assert await process.stdout.readline() == b"two\n"
            await later.complete(task_id, lease_token=held["lease_token"])
            assert await process.stdout.read() == b""
            assert await process.wait() == 0
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_workers_are_listed(cli, client, directory):
    """One line each, tab-separated where it is no terminal."""
    assert (await cli("workers")).out == ""
    task_id = await submit(client, directory, "x")
    await client.claim(work_directory=str(directory), worker_id="ann")
    (worker,) = (await cli("workers", "--json")).json["workers"]
    line = f"ann\tpoll\t{worker['last_seen_at']}\t{task_id}\t{directory}\n"
    assert (await cli("workers")).out == line
    assert await client.workers() == [worker]


# What is made of the output


class Server:
    """Takes lines, or raises what a test has put in its way."""

    def __init__(self, *errors):
        self.errors, self.calls = list(errors), []

    async def take(self, lines):
        if self.errors and (error := self.errors.pop(0)):
            raise error
        self.calls.append(lines)

    @property
    def lines(self):
        return [line for call in self.calls for line in call]


def refused(status):
    return Refused(status, "SAID_SO", "no", {})


async def heard(*pieces):
    """The lines that become of these pieces."""
    server = Server()
    it = Printing(server.take)
    for piece in pieces:
        it.stdout.feed(piece)
    await it.finish()
    return server.lines


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([], []),
        ([b"\n"], [""]),
        ([b"a\nb"], ["a", "b"]),
        ([b"a", b"b\n", b"\n", b"c"], ["ab", "", "c"]),
        ([b"a\r\nb\r", b"\nc"], ["a", "b", "c"]),
        ([b"\xc3", b"\xbc\n"], ["\u00fc"]),
        ([b"\0\xff\n"], ["\ufffd\ufffd"]),
        ([b"x" * 8192 + b"\n"], ["x" * 8192]),
        ([b"x" * 8193], ["x" * 8192, "x"]),
        ([b"x" * 20_000, b"\ny"], ["x" * 8192, "x" * 8192, "x" * 3616, "y"]),
        ([b"x" + "\u00e9".encode() * 4096], ["x" + "\u00e9" * 4095, "\u00e9"]),
        ([b"\xff" * 8192], ["\ufffd" * 2730]),
    ],
)
async def test_output_becomes_lines_that_the_server_takes(pieces, lines):
    assert await heard(*pieces) == lines


async def test_both_streams_keep_their_lines_apart():
    server = Server()
    it = Printing(server.take)
    it.stdout.feed(b"out")
    it.stderr.feed(b"err\n")
    it.stdout.feed(b"put\n")
    await it.finish()
    assert server.lines == ["err", "output"]


async def test_more_than_can_be_sent_is_left_out(monkeypatch):
    """The output says where."""
    monkeypatch.setattr(printing, "KEPT_LINES_MAX", 3)
    server = Server()
    it = Printing(server.take)
    it.stdout.feed(b"1\n2\n3\n4\n5\n")
    await it._send_some()
    it.stdout.feed(b"6\n")
    await it.finish()
    assert server.lines == ["1", "2", "3", LEFT_OUT.decode(), "6"]


async def test_long_output_is_bounded_by_its_size():
    server = Server()
    it = Printing(server.take)
    for _ in range(100):
        it.stdout.feed(b"x" * 1_000_000)
    assert it._kept_bytes <= printing.KEPT_BYTES_MAX + printing.LINE_BYTES_MAX
    await it.finish()
    assert sum(map(len, server.lines)) <= printing.KEPT_BYTES_MAX + 2 * printing.LINE_BYTES_MAX


async def test_a_call_holds_a_thousand_lines():
    server = Server()
    it = Printing(server.take)
    it.stdout.feed(b"x\n" * 2500)
    await it.finish()
    assert list(map(len, server.calls)) == [1000, 1000, 500]


@pytest.mark.parametrize("error", [Unreachable("gone"), refused(503)])
async def test_what_did_not_get_through_is_sent_again(error):
    server = Server(error)
    it = Printing(server.take)
    it.stdout.feed(b"a\n")
    assert not await it._send_some()
    assert await it._send_some()
    assert server.lines == ["a"]


@pytest.mark.parametrize("status", [400, 404, 409, 413])
async def test_a_server_that_takes_no_more_is_left_alone(status):
    server = Server(None, refused(status))
    it = Printing(server.take)
    for _ in range(4):
        it.stdout.feed(b"a\n")
        await it._send_some()
    await it.run()  # it has ended
    await it.finish()
    assert server.lines == ["a"]


async def test_a_server_that_does_not_answer_holds_up_nothing(monkeypatch):
    monkeypatch.setattr(printing, "LAST_SECONDS", 0.05)

    async def never(lines):
        await asyncio.Event().wait()

    it = Printing(never)
    it.stdout.feed(b"a\n")
    async with asyncio.timeout(PATIENCE_SECONDS):
        await it.finish()
