from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from tests.served import Served
from tests.worlds import write_params


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Headless Chromium that reaches loopback only, and logs its requests."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs Chromium; on Debian: apt install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location = program
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    arguments = (
        "--headless=new",
        "--no-sandbox",  # which does not work for root, or within a container
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--window-size=1200,1000",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    )
    for argument in arguments:
        options.add_argument(argument)
    chrome = Chrome(options=options, service=Service(driver))  # with a path, selenium downloads nothing
    try:
        yield chrome
    finally:
        chrome.quit()


@pytest.fixture(scope="session")
def trained(model: Served) -> Path:
    """Folder of the stages of all tasks, with random weights."""
    write_params(model.config, model.folder / "params.yaml")
    return model.folder / "models"


Start = Callable[..., AbstractContextManager[str]]


@pytest.fixture(scope="session")
def start(model: Served, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Function that runs ``albef demo`` and yields the address of the page."""
    folder = tmp_path_factory.mktemp("page")

    @contextmanager
    def started(*options: str) -> Iterator[str]:
        folders = ("--images", str(model.folder / "images"), "--lists", str(model.folder / "lists"))
        command = [sys.executable, "-m", "albef.cli", "demo", "--port", "0", *folders, *options]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                assert line.startswith("serving the page on http://127.0.0.1:"), line
                yield line.split()[-1]
            finally:
                process.terminate()
                assert process.wait(20) == 0
        assert not [*folder.iterdir()]

    return started
