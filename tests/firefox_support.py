"""Firefox by its WebDriver BiDi socket, without a driver."""

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any


def firefox_path() -> str | None:
    """The system's Firefox, if any."""
    return next(filter(None, map(shutil.which, ("firefox-esr", "firefox"))), None)


class Firefox:
    """One page; `run` evaluates JavaScript in it, promises awaited."""

    def __init__(self, address: str):
        import websocket

        self._socket = websocket.create_connection(address, timeout=300, suppress_origin=True)
        self._numbers = itertools.count(1)
        self.faults: list[str] = []
        self.call("session.new", capabilities={})
        self.call("session.subscribe", events=["log.entryAdded"])
        self._context = self.call("browsingContext.getTree")["contexts"][0]["context"]

    def call(self, method: str, **params: Any) -> dict:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("method") == "log.entryAdded" and message["params"]["level"] == "error":
                self.faults.append(message["params"]["text"])
            if message.get("id") == number:
                if message["type"] == "error":
                    raise RuntimeError(f"{method}: {message['message']}")
                return message["result"]

    def close(self) -> None:
        self._socket.close()

    def open(self, path: Path) -> None:
        self.call(
            "browsingContext.navigate", context=self._context, url=path.as_uri(), wait="complete"
        )

    def run(self, script: str) -> Any:
        """The JSON value of an expression."""
        expression = f"(async () => JSON.stringify(await ({script})))()"
        found = self.call(
            "script.evaluate",
            expression=expression,
            target={"context": self._context},
            awaitPromise=True,
        )
        if found["type"] != "success":
            raise RuntimeError(found["exceptionDetails"]["text"])
        return json.loads(found["result"].get("value", "null"))

    def wait(self, condition: str, seconds: float = 240) -> None:
        """Wait until an expression is true."""
        until = time.monotonic() + seconds
        while not self.run(condition):
            if time.monotonic() > until:
                raise TimeoutError(condition)
            time.sleep(0.2)


@contextmanager
def firefox(folder: Path) -> Iterator[Firefox]:
    """A headless Firefox with its profile in `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [
        "--headless",
        "--no-remote",
        "--profile",
        str(folder),
        f"--remote-debugging-port={port}",
        "about:blank",
    ]
    surroundings = os.environ | {"HOME": str(folder), "MOZ_CRASHREPORTER_DISABLE": "1"}
    process = subprocess.Popen(
        [str(firefox_path()), *options],
        env=surroundings,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None:
                    raise RuntimeError(f"Firefox ended with {process.returncode}") from None
                time.sleep(0.1)
        with closing(Firefox(f"ws://127.0.0.1:{port}/session")) as page:
            yield page
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # the session has only this Firefox
        process.wait(30)
