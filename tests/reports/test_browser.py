# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: on a phone, in the dark, on paper, sorted, and without a request to anyone."""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

WIDTHS = (390, 768, 1280)
FLAGS = [
    "headless=new",
    "no-sandbox",
    "disable-gpu",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium; tests are skipped, saying so, where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no Chromium with chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield chrome
    finally:
        chrome.quit()


def show(browser: Any, folder: Path, *, width: int = 1280, dark: bool = False, scripts: bool = True) -> None:
    """Opens the report and waits until its charts are drawn."""
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": [scheme]})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
    browser.get((folder / "report.html").as_uri())
    until = time.monotonic() + 20
    while scripts and time.monotonic() < until:
        if browser.execute_script("return document.querySelectorAll('.live .main-svg .points').length") >= 5:
            return
        time.sleep(0.05)
    assert not scripts, "the charts were not drawn within 20 seconds"


def test_it_loads_nothing_and_complains_about_nothing(browser: Any, folder: Path) -> None:
    browser.get_log("performance")
    show(browser, folder)
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith(("data:", "chrome:"))} == {(folder / "report.html").as_uri()}
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.querySelectorAll('script').length") == 7  # 5 of data, Plotly, ours


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_never_scrolls_sideways(browser: Any, folder: Path, width: int) -> None:
    show(browser, folder, width=width)
    browser.execute_script("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert browser.execute_script("return document.scrollingElement.scrollWidth") <= width
    wide = """return [...document.querySelectorAll('body *')].filter(one => !one.closest('.scroll, .live, pre, .skip')
        && one.getBoundingClientRect().right > innerWidth + 1).map(one => one.outerHTML.slice(0, 80))"""
    assert browser.execute_script(wide) == []


def test_panels_stand_side_by_side_on_a_desk_and_one_below_the_other_on_a_phone(browser: Any, folder: Path) -> None:
    tops = "return [...document.querySelectorAll('#tradeoff figure')].map(one => one.getBoundingClientRect().top)"
    show(browser, folder, width=1280)
    first, second = browser.execute_script(tops)
    assert first == second
    show(browser, folder, width=390)
    first, second = browser.execute_script(tops)
    assert second > first + 200


def test_text_and_charts_follow_the_theme_and_change_with_it(browser: Any, folder: Path) -> None:
    look = """const text = document.querySelector('.live .xtick text');
        return [getComputedStyle(document.body).backgroundColor, getComputedStyle(text).fill]"""
    show(browser, folder, dark=True)
    assert browser.execute_script(look) == ["rgb(20, 23, 27)", "rgb(228, 231, 235)"]
    light = {"features": [{"name": "prefers-color-scheme", "value": "light"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", light)
    time.sleep(0.5)
    assert browser.execute_script(look) == ["rgb(255, 255, 255)", "rgb(27, 31, 36)"]


def test_the_table_sorts_both_ways_with_what_is_missing_last(browser: Any, folder: Path) -> None:
    show(browser, folder)
    click = "document.querySelectorAll('table.sortable th button')[5].click()"
    column = (
        "return [...document.querySelectorAll('table.sortable tbody tr')].map(r => r.cells[5].dataset.sort ?? null)"
    )
    for direction in (1, -1):
        browser.execute_script(click)
        shown = browser.execute_script(column)
        known = [float(value) for value in shown if value is not None]
        assert known == sorted(known, reverse=direction < 0)
        assert shown[len(known) :] == [None, None]
    heading = "return document.querySelector('th[aria-sort]').getAttribute('aria-sort')"
    assert browser.execute_script(heading) == "descending"


def test_a_link_to_victims_unfolds_them(browser: Any, folder: Path) -> None:
    show(browser, folder)
    is_open = "return document.getElementById('victims-5').open"
    assert not browser.execute_script(is_open)
    browser.execute_script("location.hash = '#victims-5'")
    time.sleep(0.2)
    assert browser.execute_script(is_open)


def test_without_scripts_the_charts_are_still_there(browser: Any, folder: Path) -> None:
    show(browser, folder, scripts=False)
    try:
        seen = """[...document.querySelectorAll('svg.still')].map(one => one.getBoundingClientRect().height)"""
        found = browser.execute_cdp_cmd("Runtime.evaluate", {"expression": seen, "returnByValue": True})
        heights = found["result"]["value"]
        assert len(heights) == 5
        assert min(heights) > 200
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_on_paper_everything_is_unfolded_and_charts_are_drawn_for_it(browser: Any, folder: Path) -> None:
    show(browser, folder)
    folded = "return document.querySelectorAll('details:not([open])').length"
    before = browser.execute_script(folded)
    browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    assert before > 10
    assert browser.execute_script(folded) == 0
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown = "return ['.still', '.live'].map(s => getComputedStyle(document.querySelector(s)).display)"
    assert browser.execute_script(shown) == ["block", "none"]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    browser.execute_script("window.dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script(folded) == before
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    assert pdf.startswith(b"%PDF-")
    assert pdf.count(b"/Type /Page\n") > 10
