"""A real JupyterLab and a real browser, for test_browser.py."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat

# Chromium calls home at every start unless told not to; the tests need no network but loopback.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# When the picture of a live widget next changes, and when its run ends: seconds after the click on an option.
TIMED_CLICK = """([option, live]) => new Promise((resolve) => {
  const began = performance.now();
  const times = {};
  const seen = live.dataset.drawn;
  const watch = new MutationObserver(() => {
    const now = (performance.now() - began) / 1000;
    if (times.first === undefined && live.dataset.drawn !== seen) times.first = now;
    if (times.first !== undefined && ["done", "stopped", "error"].includes(live.dataset.state)) {
      watch.disconnect();
      resolve({ ...times, finished: now, state: live.dataset.state });
    }
  });
  watch.observe(live, { attributes: true });
  option.click();
})"""
# A command given before the kernel is connected is lost.
READY = """async () => {
  await jupyterapp.restored;
  const { sessionContext, context } = jupyterapp.shell.currentWidget;
  await context.ready;
  await sessionContext.ready;
  await sessionContext.session.kernel.info;
}"""
# The pixels of a canvas, row by row, as RGB.
PIXELS = """(canvas) => {
  const { width, height } = canvas;
  const data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
  return { width, height, rgb: Array.from(data).filter((_, i) => i % 4 !== 3) };
}"""


def chromium() -> str | None:
    """The system's browser, if any."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def browser() -> Iterator:
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chrome = play.chromium.launch(executable_path=chromium(), args=FLAGS)
        try:
            yield chrome
        finally:
            chrome.close()


@contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """A JupyterLab on a free port of loopback, serving `folder`; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = folder / ".jupyter"
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    surroundings = os.environ | {name: str(own / name) for name in names} | {"IPYTHONDIR": str(own / "ipython")}
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"]
    options += ["--IdentityProvider.token=", "--ServerApp.password=", "--LabApp.expose_app_in_browser=True"]
    options += ["--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    settings = {  # no dialogs, and every cell stays in the page
        "notebook-extension/tracker": {"autoStartDefaultKernel": True, "windowingMode": "none"},
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    }
    for name, values in settings.items():
        file = own / "JUPYTERLAB_SETTINGS_DIR" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    options += [f"--ServerApp.root_dir={folder}"]
    address = f"http://127.0.0.1:{port}"
    with open(own / "log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], cwd=folder, env=surroundings, stdout=log, stderr=log
        )
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"{address}/api", timeout=1).close()
                    break
                except OSError:
                    if server.poll() is not None:
                        raise RuntimeError((own / "log").read_text()[-2000:]) from None
                    time.sleep(0.1)
            yield address
        finally:
            server.terminate()
            server.wait(20)


def write_notebook(path: Path, *cells: str) -> None:
    """A notebook of code cells."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)


class Notebook:
    """A notebook open in JupyterLab; `faults` gathers the console's errors."""

    def __init__(self, chrome, address: str, name: str):
        self.page = chrome.new_page(viewport={"width": 1280, "height": 1000})
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", self._on_console)
        self.page.goto(f"{address}/doc/tree/{name}")
        self.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        self.page.evaluate(READY)

    def _on_console(self, message) -> None:
        # The server knows nothing of some optional addresses, and Lab says so; that is not of our making.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.faults.append(message.text)

    def command(self, name: str) -> None:
        """Run a command of JupyterLab."""
        self.page.evaluate("(name) => { jupyterapp.commands.execute(name); }", name)  # not awaited: a cell may run

    def run_all(self, *, widgets: int, seconds: float = 300) -> None:
        """Run every cell and wait for so many live results."""
        self.command("notebook:run-all-cells")
        selector = f"() => document.querySelectorAll('.nb-widget[data-state=done]').length >= {widgets}"
        self.page.wait_for_function(selector, timeout=seconds * 1000)

    def cells(self) -> int:
        """How many cells the notebook has."""
        return self.page.evaluate("() => jupyterapp.shell.currentWidget.content.widgets.length")

    def close(self) -> None:
        """Shut the kernel down and close the page."""
        self.page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        self.page.close()
