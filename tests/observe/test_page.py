"""The page in a real browser: what it shows, what it never runs, and that it fits a phone."""

import os
import re
import shutil
import threading

import pytest
from observed import X, linear
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from missile_jax import LaunchRecord
from missile_jax.observe.page import summary
from missile_jax.options import HttpOptions, ObserveOptions
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.serve import HttpServer

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
EVIL = "<img src=x onerror=document.title='owned'>"

REQUIRED = any(os.environ.get(name) for name in ("CI", "MISSILE_REQUIRE_BROWSER"))
browser_only = pytest.mark.skipif(
    CHROMIUM is None and not REQUIRED, reason="needs chromium or google-chrome"
)
# How many pixels of the timeline have about the colour that a variable of the page names.
PIXELS = """name => {
  const hex = getComputedStyle(document.body).getPropertyValue(name).trim();
  const wanted = [1, 3, 5].map(at => parseInt(hex.slice(at, at + 2), 16));
  const canvas = document.getElementById("timeline");
  const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let count = 0;
  for (let at = 0; at < data.length; at += 4) {
    if (data[at + 3] > 64 && wanted.every((c, k) => Math.abs(data[at + k] - c) < 16)) count++;
  }
  return count;
}"""


@pytest.fixture(scope="module")
def browser():
    assert CHROMIUM is not None, "neither chromium nor google-chrome is on the PATH"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(managed, serve, browser: Browser):
    """Opens the page at a width: the page, and all that it said was wrong."""
    client = serve(managed, observe=ObserveOptions(page=True))
    url = f"http://{client.connection.host}:{client.connection.port}/"
    problems = []

    def open_at(width: int, scheme="light") -> tuple[Page, list[str]]:
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(url)
        return page, problems

    return open_at


def test_there_is_no_page_unless_asked_for(managed, serve):
    client = serve(managed)
    assert client.error("GET", "/")[0] == 404
    assert client.error("GET", "/v2/page.json")[0] == 404


def test_the_page_may_load_nothing_from_elsewhere(managed, serve):
    status, headers, body = serve(managed, observe=ObserveOptions(page=True)).ask("GET", "/")
    assert status == 200
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert b"://" not in body
    assert b"innerHTML" not in body


def test_its_data_is_what_the_runtime_says(managed, serve):
    client = serve(managed, observe=ObserveOptions(page=True))
    client.get("/v2/page.json")
    managed.infer("quick", X)
    data = client.get("/v2/page.json")
    quick = next(model for model in data["models"] if model["name"] == "quick")
    known = managed.stats()["models"]["quick"]
    assert quick["requests"] == known["success_count"]
    assert (quick["latency"], quick["tenant"], quick["slo_ms"]) == (True, "a", 10_000)
    assert quick["attainment"] == 1
    assert data["memory"]["size_bytes"] == 3 * 2**18
    (model, start_ms, duration_ms) = data["timeline"][-1]
    assert model == "quick"
    assert start_ms < 0 < duration_ms


def test_launches_long_past_are_not_drawn(managed):
    stats = managed.stats()
    now = stats["now_ns"]
    records = [LaunchRecord("quick", True, -1, 1, now - 5_000_000_000, now - 4_000_000_000)]
    records += [LaunchRecord("quick", True, -1, 1, now - 2_000_000, now - 1_000_000)]
    assert summary(stats, records)["timeline"] == [("quick", -2.0, 1.0)]


@browser_only
def test_the_page_shows_every_model_and_runs_no_name(managed, opened):
    managed.load(linear("evil", tenant=EVIL))
    page, problems = opened(1100)
    expect(page.locator("#state")).to_have_text("serving")
    rows = page.locator("#models tr")
    expect(rows).to_have_count(4)
    expect(rows.first).to_contain_text("quick")
    expect(page.get_by_text(EVIL, exact=True)).to_be_visible()
    assert page.locator("img").count() == 0
    assert page.title() == "missile-jax"
    assert problems == []
    managed.unload("evil")
    expect(rows).to_have_count(3)


@pytest.fixture
def busy(managed):
    """Models of both classes run, and one of them has to come to the device each time."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            managed.infer("quick", X)
            managed.infer("slow", X)
            managed.evict("other")
            managed.infer("other", X)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    stop.set()
    thread.join()


SOME = re.compile("[1-9]")


def figure(page: Page, name: str) -> Locator:
    return page.locator(f"#figures div:has(dt:text-is('{name}')) dd")


@browser_only
def test_the_figures_are_those_of_what_runs(managed, opened, busy):
    page, problems = opened(1100)
    for name in ("LS requests/s", "BE rows/s", "device memory"):
        expect(figure(page, name)).to_have_text(SOME, timeout=30_000)
    expect(figure(page, "worst p99 / SLO")).to_have_text(re.compile(r"^\d+ %$"))
    expect(figure(page, "models on the device")).to_have_text(re.compile("^[23] of 3$"))
    quick = page.locator("#models tr", has_text="quick")
    model, tenant, *_ = quick.locator("td").all_text_contents()
    assert (model, tenant) == ("LSquick", "a")
    expect(quick.locator("td").nth(5)).to_have_text("10,000")
    expect(quick.locator("td").nth(6)).to_have_text("100 %")
    assert problems == []


@browser_only
def test_the_link_has_a_row_for_each_tenant_and_class(managed, opened, busy):
    page, problems = opened(1100)
    rows = page.locator("#link tr")
    names = [flow["flow"] for flow in summary(managed.stats(), [])["memory"]["link"]]
    assert len(names) >= 2
    expect(rows).to_have_count(len(names))
    assert rows.locator("td:first-child").all_text_contents() == names
    (moving,) = [k for k, name in enumerate(names) if name.startswith("b")]
    expect(rows.nth(moving).locator("td").nth(2)).to_have_text("100 %", timeout=30_000)
    assert problems == []


@browser_only
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_timeline_shows_both_classes_in_their_colours(managed, opened, busy, scheme):
    page, problems = opened(360, scheme)
    # Launches are recorded once a page asks for them, rates are known at the poll after that.
    expect(figure(page, "BE rows/s")).to_have_text(SOME, timeout=30_000)
    assert problems == []
    for colour in ("--ls", "--be"):
        assert page.evaluate(PIXELS, colour) > 20


@browser_only
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_need_not_scroll_sideways(managed, opened, scheme):
    page, problems = opened(360, scheme)
    expect(page.locator("#models tr")).to_have_count(3)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert problems == []


@browser_only
def test_a_server_that_is_gone_is_said_to_be(managed, browser: Browser):
    page = browser.new_page()
    observe = ObserveOptions(page=True)
    with HttpServer(Dataplane(managed), HttpOptions(port=0), observe=observe) as server:
        page.goto(server.url)
        expect(page.locator("#state")).to_have_text("serving")
    expect(page.locator("#state")).to_have_text("not reachable")
    page.close()
