"""The page of the contract in a real browser, under its own policy and with no network but this server."""

from web.routes import ROUTES


def test_the_page_shows_every_operation_and_breaks_no_rule(shared, page):
    complaints, asked = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(request.url))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{shared.url}/docs")
    page.wait_for_selector(".opblock")
    assert page.locator(".opblock").count() == len(ROUTES)
    page.locator("#operations-tasks-tasks_create .opblock-summary-control").click()
    page.wait_for_selector("#operations-tasks-tasks_create .opblock-body .responses-table")
    assert complaints == []
    elsewhere = [url for url in asked if not url.startswith((f"{shared.url}/", "data:"))]
    assert elsewhere == []


def test_the_page_can_make_a_request(shared, page):
    """It is of the same origin, and so lets nobody in who could not get in otherwise."""
    page.goto(f"{shared.url}/docs#/system/health_live")
    block = page.locator("#operations-system-health_live")
    block.locator(".try-out__btn").click()
    block.locator(".execute").click()
    shown = block.locator(".live-responses-table .response-col_description .microlight").first
    assert '"alive"' in shown.inner_text()
