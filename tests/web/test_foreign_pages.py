"""Pages of other sites in a real browser: what they cannot do, and what those can that are let in."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from playwright.sync_api import Error

from tests.web.conftest import TASKS, footprint, running

CREATE = """async ([url, key]) => {
    const headers = {"Content-Type": "application/json", "Authorization": `Bearer ${key}`, "Idempotency-Key": "1"};
    const body = JSON.stringify({work_directory: "/a", prompt: "x"});
    const answer = await fetch(url, {method: "POST", headers, body});
    return [answer.status, answer.headers.get("Location"), (await answer.json()).data.status];
}"""
FORGE = """async ([url]) => {
    const body = JSON.stringify({work_directory: "/a", prompt: "x"});
    const attempts = [
        fetch(url, {method: "POST", mode: "no-cors", credentials: "include", body}),
        fetch(url, {method: "POST", headers: {"Content-Type": "application/json"}, body}),
        fetch(`${url}/next?work_path=/a`, {mode: "no-cors"}),
        fetch(`${url}/next?work_path=/a`),
        new Promise((resolve, reject) => {
            const image = new Image();
            image.onload = resolve;
            image.onerror = () => reject("not an image");
            image.src = `${url}/next?work_path=/a`;
        }),
        new Promise((resolve) => {
            const frame = document.createElement("iframe");
            frame.onload = resolve;
            frame.src = `${url}/next?work_path=/a`;
            document.body.append(frame);
        }),
    ];
    return (await Promise.allSettled(attempts)).map((it) => it.status);
}"""
LISTEN = """async ([url, key]) => {
    const answer = await fetch(url, {headers: {"X-API-Key": key, "Last-Event-ID": "0"}});
    const reader = answer.body.getReader();
    let text = "";
    while (!text.includes("event: task.created")) text += new TextDecoder().decode((await reader.read()).value);
    reader.cancel();
    return answer.status;
}"""


class Blank(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!DOCTYPE html><body>")

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def elsewhere():
    """The origin of a site with an empty page."""
    site = ThreadingHTTPServer(("127.0.0.1", 0), Blank)
    serving = Thread(target=site.serve_forever)
    serving.start()
    yield f"http://elsewhere.example:{site.server_port}"
    site.shutdown()
    serving.join()
    site.server_close()


def test_a_page_of_another_site_changes_nothing_and_reads_nothing(shared, page, elsewhere):
    """Whatever it tries, with or without asking first."""
    before = footprint(shared)
    page.goto(elsewhere)
    seen = page.evaluate(FORGE, [f"{shared.url}{TASKS}"])
    assert seen == ["rejected"] * 5 + ["fulfilled"]  # the frame shows that it was refused
    assert footprint(shared) == before


def test_a_name_that_leads_to_this_machine_is_none_of_its_own(shared, page):
    """The page and the server are of one origin then, to the browser (DNS rebinding)."""
    before = footprint(shared)
    for path in ("/docs", TASKS):
        answer = page.goto(f"http://rebound.example:{shared.port}{path}")
        assert answer.status == 403
    with pytest.raises(Error, match="Failed to fetch"):  # what refuses it lets it ask nothing more
        page.evaluate("(url) => fetch(url)", f"{TASKS}/next?work_path=/a")
    assert footprint(shared) == before


def test_a_page_that_is_let_in_works_with_a_key(tmp_path, page, elsewhere):
    """It creates, reads what it is told of, and follows the feed; another page still cannot."""
    key = "correct-horse-battery-staple"
    environ = {"ENABLE_CORS": "true", "APP_SECURITY_CORS_ORIGINS": elsewhere, "API_SECRET_KEY": key}
    with running(tmp_path, **environ) as server:
        page.goto(elsewhere)
        status, location, task = page.evaluate(CREATE, [f"{server.url}{TASKS}", key])
        assert (status, location.startswith(TASKS), task) == (201, True, "waiting")
        assert page.evaluate(LISTEN, [f"{server.url}/api/v1/events", key]) == 200
        before = footprint(server)
        page.goto(elsewhere.replace("elsewhere", "another"))
        with pytest.raises(Error, match="Failed to fetch"):
            page.evaluate(CREATE, [f"{server.url}{TASKS}", key])
        assert footprint(server) == before
