"""JupyterLab and Chromium for browser tests, benchmarks and tools."""

import ast
import base64
import functools
import importlib.util
import io
import json
import os
import shutil
import socket
import subprocess
import symtable
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import numpy as np
import PIL.Image
import pytest

from nbhelpers import files

NOTEBOOKS = files.notebooks()[1:]  # 0 has the demo over ε, tested separately
# Chromium calls home at every start by default; the tests use only loopback.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
GRAPHICS = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]
# Seconds from the click on an option to the next redraw, and to the end of the run, on the screen.
TIMED_CLICK = """([option, live, steps]) => new Promise((resolve) => {
  const began = performance.now();
  const seen = live.dataset.drawn;
  const step = live.querySelector(".nb-status");
  let first, reached, ending;
  const watch = new MutationObserver(() => {
    const drawn = live.dataset.drawn !== seen;
    const ended = drawn && ["done", "stopped", "error"].includes(live.dataset.state);
    requestAnimationFrame(() => {
      const now = (performance.now() - began) / 1000;
      if (drawn) first ??= now;
      if (drawn && Number(/step (\\d+)/.exec(step?.textContent)?.[1]) >= steps) reached ??= now;
      if (!ended || ending) return;
      ending = true;
      watch.disconnect();
      resolve({ first, reached, finished: now, state: live.dataset.state, frames: live.dataset.drawn - seen });
    });
  });
  watch.observe(live, { attributes: true });
  option.click();
})"""
# Commands before the kernel's connection are lost.
READY = """async () => {
  await jupyterapp.restored;
  const { sessionContext, context } = jupyterapp.shell.currentWidget;
  await context.ready;
  await sessionContext.ready;
  await sessionContext.session.kernel.info;
}"""
# Open another notebook on the same kernel, which spares the import of torch.
OPEN = """async (path) => {
  const { shell, commands } = jupyterapp;
  const before = shell.currentWidget;
  const { id } = before.sessionContext.session.kernel;
  const opened = await commands.execute("docmanager:open", { path, factory: "Notebook", kernel: { id } });
  before.dispose();
  shell.activateById(opened.id);
}"""


def pixels(canvases) -> np.ndarray:
    """Pixels of equally large canvases, (n, h, w, 3), sent as PNG: lists of numbers take seconds."""
    urls = canvases.evaluate_all("(all) => all.map((canvas) => canvas.toDataURL())")
    files = [io.BytesIO(base64.b64decode(url.partition(",")[2])) for url in urls]
    return np.stack([np.asarray(PIL.Image.open(file).convert("RGB"), dtype=int) for file in files])


def chromium() -> str | None:
    """The system's Chromium, if any."""
    return next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )


# marks of files with browser tests
NEEDS_CHROMIUM = [
    pytest.mark.browser,
    pytest.mark.skipif(
        chromium() is None, reason="no Chromium here: install the system's package `chromium`"
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("playwright") is None, reason="playwright is not installed"
    ),
]


@functools.cache
def axe() -> str:
    """The script of axe-core, an accessibility checker; skips the test if npm cannot get it."""
    if shutil.which("npm") is None:
        pytest.skip("no npm to fetch axe-core with")
    with tempfile.TemporaryDirectory() as folder:
        packed = subprocess.run(
            ["npm", "pack", "axe-core"], cwd=folder, capture_output=True, text=True, timeout=120
        )
        files = list(Path(folder).glob("axe-core-*.tgz"))
        if not files:
            pytest.skip(f"axe-core cannot be fetched: {packed.stderr[-200:]}")
        with tarfile.open(files[0]) as archive:
            return archive.extractfile("package/axe.min.js").read().decode()  # type: ignore[union-attr]


def serious(page, part: str = "html") -> list[tuple[str, str]]:
    """Axe's serious violations in a part of a page with its script, each with the first element's
    text.
    """
    only = '{ resultTypes: ["violations"] }'  # what passes is not described, which is quicker
    violations = page.evaluate(f"async (part) => (await axe.run(part, {only})).violations", part)
    return [
        (v["id"], v["nodes"][0]["html"])
        for v in violations
        if v["impact"] in ("serious", "critical")
    ]


@contextmanager
def browser(*flags: str, graphics: bool = False) -> Iterator:
    """A headless Chromium, `graphics` with WebGPU in software; Playwright allows one per process."""
    from playwright.sync_api import sync_playwright

    args = [flag for flag in FLAGS if not graphics or flag != "--disable-gpu"]
    args += [*flags, *(GRAPHICS if graphics else ())]
    with sync_playwright() as play:
        chrome = play.chromium.launch(executable_path=chromium(), args=args)
        try:
            yield chrome
        finally:
            chrome.close()


@contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """A JupyterLab for `folder` on a free loopback port; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = folder / ".jupyter"
    names = (
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_RUNTIME_DIR",
        "JUPYTERLAB_SETTINGS_DIR",
        "JUPYTERLAB_WORKSPACES_DIR",
    )
    surroundings = (
        os.environ
        | {name: str(own / name) for name in names}
        | {"IPYTHONDIR": str(own / "ipython")}
    )
    options = [
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
    ]
    options += [
        "--IdentityProvider.token=",
        "--ServerApp.password=",
        "--LabApp.expose_app_in_browser=True",
    ]
    options += [
        "--LabApp.news_url=",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    settings = {  # no dialogs, and no windowing of cells
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
            [sys.executable, "-m", "jupyterlab", *options],
            cwd=folder,
            env=surroundings,
            stdout=log,
            stderr=log,
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
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
    }
    nbformat.write(notebook, path)


def _names(statement: ast.stmt) -> tuple[set[str], set[str], set[str]]:
    """Names that a statement binds, changes by a subscript, and reads from outside."""
    tables = [symtable.symtable(ast.unparse(statement), "cell", "exec")]
    bound = {s.get_name() for s in tables[0].get_symbols() if s.is_assigned() or s.is_imported()}
    read = {s.get_name() for s in tables[0].get_symbols() if s.is_referenced()}
    for table in tables:  # grows by the functions and comprehensions inside
        tables += table.get_children()
    read |= {s.get_name() for inner in tables[1:] for s in inner.get_symbols() if s.is_global()}
    changed = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            changed |= {one.id for one in ast.walk(node.value) if isinstance(one, ast.Name)}
    return bound, changed, read


def write_demo(source: Path, target: Path, *, steps: int | None = None) -> None:
    """A notebook with its demo and the statements that it needs; the other cells become text.

    Args:
        source, target: the notebook and its copy.
        steps: replaces the notebook's parameter.
    """
    notebook = nbformat.read(source, 4)
    wanted: set[str] = set()  # names that later statements need
    for cell in notebook.cells[::-1]:
        if cell.cell_type != "code":
            continue
        if steps is not None and "parameters" in cell.metadata.get("tags", []):
            cell.source = "\n".join([cell.source, f"steps = {steps}"])
        kept: list[str] = []
        for statement in ast.parse(cell.source).body[::-1]:
            bound, changed, read = _names(statement)
            text = ast.unparse(statement)
            if "nb.widgets." not in text and not wanted & (bound | changed):
                continue
            kept.insert(0, text)
            if isinstance(statement, ast.Assign):  # others may leave a name as it was
                wanted -= bound
            wanted |= read
        cell.source = "\n".join(kept) or cell.source
        if not kept:
            cell.cell_type = "raw"
            del cell["outputs"], cell["execution_count"]
    nbformat.write(notebook, target)


class Notebook:
    """A notebook open in JupyterLab, or none yet; `faults` has the console's errors."""

    folder: Path  # JupyterLab's
    collapsed: bool  # its left side bar, at first

    def __init__(self, chrome, address: str, name: str = ""):
        self.page = chrome.new_page(viewport={"width": 1280, "height": 1000})
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", self._on_console)
        self.address, self.name = address, ""
        if name:
            self.open(name)

    def _wait(self) -> None:
        self.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        self.page.evaluate(READY)

    def open(self, name: str) -> None:
        """Open a notebook, on the kernel of the one before."""
        if self.name:
            self.page.evaluate(OPEN, name)
            self._wait()
        else:
            self.page.goto(f"{self.address}/doc/tree/{name}")
            self._wait()
            self.collapsed = self.page.evaluate("() => jupyterapp.shell.leftCollapsed")
        self.name = name

    def _on_console(self, message) -> None:
        # Lab requests optional addresses that the server lacks
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.faults.append(message.text)

    def command(self, name: str) -> None:
        """Run a command of JupyterLab."""
        # not awaited: a cell may run
        self.page.evaluate("(name) => { jupyterapp.commands.execute(name); }", name)

    def run_all(self, *, widgets: int, seconds: float = 300) -> None:
        """Run every cell and wait for the live results."""
        self.command("notebook:run-all-cells")
        selector = (
            f"() => document.querySelectorAll('.nb-widget[data-state=done]').length >= {widgets}"
        )
        self.page.wait_for_function(selector, timeout=seconds * 1000)

    def reset(self) -> None:
        """The window as it was at first, and no faults."""
        self.faults.clear()
        if not self.name:
            return
        self.page.set_viewport_size({"width": 1280, "height": 1000})
        left = "collapseLeft" if self.collapsed else "expandLeft"
        self.page.evaluate(f"() => jupyterapp.shell.{left}()")
        self.theme("Light")

    def theme(self, scheme: str) -> None:
        """Light or Dark."""
        theme = f"JupyterLab {scheme}"
        change = "(theme) => jupyterapp.commands.execute('apputils:change-theme', { theme })"
        self.page.evaluate(change, theme)
        changed = "(theme) => document.body.dataset.jpThemeName === theme"
        self.page.wait_for_function(changed, arg=theme)

    def cells(self) -> int:
        """Number of cells."""
        return self.page.evaluate("() => jupyterapp.shell.currentWidget.content.widgets.length")

    def close(self) -> None:
        """Shut the kernel down and close the page."""
        self.page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        self.page.close()
