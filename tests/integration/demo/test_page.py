"""The demo page in a real browser, with its own models and a server's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from albef.data.schema import NLVR_LABELS, VE_LABELS
from albef.demo.models import TASKS
from albef.demo.tabs import TABS
from albef.serving.service import Service
from tests.integration.demo.conftest import Start
from tests.served import Served

TITLES = {tab.method: tab.title for tab in TABS}


class Page:
    """The page, open in a browser."""

    def __init__(self, browser: Chrome, address: str) -> None:
        self.browser = browser
        browser.get_log("performance")
        browser.get(address)
        self.wait(lambda: self.titles())

    def wait(self, condition: Callable[[], Any]) -> Any:
        return WebDriverWait(self.browser, 30, 0.2).until(lambda _: condition())

    def all(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def titles(self) -> list[str]:
        return [each.text for each in self.all("[role=tab]")]

    def open(self, tab: str) -> str:
        """Open a tab, and return its selector."""
        next(each for each in self.all("[role=tab]") if each.text == TITLES[tab]).click()
        self.wait(lambda: any(each.is_displayed() for each in self.all(f"#tab-{tab} button.primary")))
        return f"#tab-{tab}"

    def run(self, tab: str) -> None:
        # Clicked by script: notes and images that appear move the button away from the pointer.
        self.browser.execute_script("arguments[0].click()", self.all(f"#tab-{tab} button.primary")[0])

    def type(self, field: WebElement, text: str, unknown: str) -> None:
        """Replace the text of a field, and wait for the note on an unknown word."""
        field.clear()
        field.send_keys(text)
        self.wait(lambda: any(unknown in str(each.get_attribute("textContent")) for each in self.all(".unknown mark")))

    def labels(self, tab: str) -> list[str]:
        suffix = "-confidence-set"
        found = self.all(f"#tab-{tab} [data-testid$='{suffix}']")
        return [str(each.get_attribute("data-testid")).removesuffix(suffix) for each in found]

    def shown(self, tab: str) -> list[str]:
        """Titles in the gallery of a tab."""
        return [each.text for each in self.all(f"#tab-{tab} .caption-label")]

    def requests(self) -> list[str]:
        """Addresses that the page requested since it was opened."""
        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        sent = [each["params"] for each in messages if each["method"] == "Network.requestWillBeSent"]
        return [each["request"]["url"] for each in sent]


def elsewhere(urls: list[str]) -> list[str]:
    """Addresses on other hosts than loopback."""
    return [
        url for url in urls if urlsplit(url).scheme not in ("data", "blob") and urlsplit(url).hostname != "127.0.0.1"
    ]


@pytest.fixture(scope="module")
def page(browser: Chrome, trained: Path, start: Start):
    with start("--models", str(trained)) as address:
        yield Page(browser, address)


def test_every_model_has_a_tab(page: Page) -> None:
    assert page.titles() == [TITLES[method] for method in TASKS]


@pytest.mark.parametrize("tab", TASKS)
def test_an_example_is_one_click_away(page: Page, tab: str) -> None:
    page.open(tab)
    page.all(f"#tab-{tab} [data-testid='dataset-cell-0-0'], #tab-{tab} .gallery-item")[0].click()
    if tab == "search":
        assert all(0 <= float(score) <= 1 for score in page.wait(lambda: len(page.shown(tab)) == 8 and page.shown(tab)))
        return
    if tab == "ground":
        page.wait(lambda: page.shown(tab)[:1] == ["the"])
        assert page.all(f"#tab-{tab} [data-testid='image'] img, #tab-{tab} .image-frame img")
        return
    count = {"entail": 3, "compare": 2, "classify": 4}.get(tab, 5)
    labels = page.wait(lambda: len(found := page.labels(tab)) == count and found)
    assert not {"entail": {*VE_LABELS}, "compare": {*NLVR_LABELS}}.get(tab, {*labels}) ^ {*labels}


def test_a_visitor_gives_an_image_and_texts(page: Page, model: Served) -> None:
    tab = page.open("classify")
    page.browser.refresh()
    page.wait(page.titles)
    page.open("classify")
    page.all(f"{tab} input[type=file]")[0].send_keys(str(model.folder / "images/3.png"))
    page.wait(lambda: page.all(f"{tab} .image-frame img"))
    page.type(page.all(f"{tab} textarea")[0], "red, no <b>color</b>", "color")
    page.run("classify")
    page.wait(lambda: {*page.labels("classify")} == {"red", "no <b>color</b>"})


def test_a_refused_text_is_explained(page: Page) -> None:
    tab = page.open("classify")
    page.all(f"{tab} [data-testid='dataset-cell-0-0']")[0].click()
    page.wait(lambda: len(page.labels("classify")) == 4)  # other than those of the test before
    page.type(page.all(f"{tab} textarea")[1], "<b>no place</b>", "place")
    page.run("classify")
    page.wait(lambda: "'<b>no place</b>' needs exactly one {}" in page.all("body")[0].text)


def test_words_of_no_training_text_are_marked(page: Page) -> None:
    tab = page.open("search")
    box = page.all(f"{tab} input[type=text], {tab} textarea")[0]
    box.clear()
    box.send_keys("red above a <i>zebra")
    page.wait(lambda: [each.text for each in page.all(f"{tab} .unknown mark")] == ["<i>zebra"])
    box.clear()
    box.send_keys("red above")
    page.wait(lambda: not page.all(f"{tab} .unknown mark"))


def test_a_refused_image_is_explained(page: Page, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("upload") / "text.png"
    file.write_text("no image")
    tab = page.open("answer")
    page.run("answer")
    page.wait(lambda: "Image: empty" in page.all("body")[0].text)
    page.all(f"{tab} input[type=file]")[0].send_keys(str(file))
    page.wait(lambda: page.all(f"{tab} .image-frame img"))  # text typed before the image is there may be lost
    page.all(f"{tab} input[type=text], {tab} textarea")[0].send_keys("what color is above?")
    page.run("answer")
    page.wait(lambda: "not a readable image" in page.all("body")[0].text)


def test_the_page_loads_nothing_from_elsewhere(page: Page) -> None:
    urls = page.requests()
    assert len(urls) > 20
    assert elsewhere(urls) == []
    assert elsewhere(["https://fonts.example.org/a.css", "data:,"]) == ["https://fonts.example.org/a.css"]


def test_a_server_answers_instead(browser: Chrome, service: Service, start: Start) -> None:
    with start("--url", service.grpc_url) as address:
        page = Page(browser, address)
        assert page.titles() == [TITLES[method] for method in TASKS]
        for tab in ("search", "captions", "ground"):
            page.open(tab)
            page.all(f"#tab-{tab} [data-testid='dataset-cell-0-0'], #tab-{tab} .gallery-item")[0].click()
        page.wait(lambda: page.all("#tab-ground .image-frame img"))
        page.open("search")
        page.wait(lambda: len(page.shown("search")) == 8)
        page.open("captions")
        page.wait(lambda: len(page.labels("captions")) == 5)
        assert elsewhere(page.requests()) == []
