"""Somebody opens the page, sends its form, and sees what was written."""

import re

from app.feedback.install import install_feedback
from tests.accounts.browsers import Browser, register
from tests.conftest import Serve


async def test_a_form_is_sent_with_the_token_that_it_has(serve: Serve) -> None:
    async with serve(install_feedback) as client, Browser(client) as browser:
        await browser.log_in(await register(client))
        del browser.headers["x-csrf-token"]  # a form sends none
        page = await browser.get("/feedback")
        (token,) = re.findall('name="csrf_token" value="([^"]+)"', page.text)
        forged = await browser.post("/feedback", data={"text": "I was here", "csrf_token": "x"})
        empty = await browser.post("/feedback", data={"text": " ", "csrf_token": token})
        sent = await browser.post("/feedback", data={"text": "<b>good</b>", "csrf_token": token})
        after = await browser.get(sent.headers["location"])
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    assert forged.status_code == 403
    assert (empty.status_code, "Between 1 and 1000" in empty.text) == (422, True)
    assert sent.status_code == 303
    assert "You wrote: &lt;b&gt;good&lt;/b&gt;" in after.text
