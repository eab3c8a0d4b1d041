"""Parameter injection into a notebook, and the kernel that runs it."""

import contextlib
import contextvars
import copy
import math
import os
import re
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from jupyter_client.manager import AsyncKernelManager
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

LONGEST_SOCKET = 90  # bytes of a socket's path; systems allow 104 or 108, a suffix is added


class Kernels:
    """The running kernels of a sweep, for a joint stop."""

    def __init__(self) -> None:
        self.stopped = False
        self._running: set[int] = set()
        self._lock = threading.Lock()

    def begin(self, process: int) -> None:
        """Register a started kernel; kill it if all were stopped meanwhile."""
        with self._lock:
            self._running.add(process)
        if self.stopped:
            self.stop()

    def end(self, process: int) -> None:
        """Remove a kernel that ends by itself."""
        with self._lock:
            self._running.discard(process)

    def stop(self) -> None:
        """Kill all kernels and their child processes, also those that start later."""
        self.stopped = True
        with self._lock:
            for process in self._running:
                with contextlib.suppress(OSError):
                    if os.name == "posix":  # a kernel leads its own process group
                        os.killpg(process, signal.SIGKILL)
                    else:
                        os.kill(process, signal.SIGTERM)


# The kernels of the current thread's sweep.
KERNELS: contextvars.ContextVar[Kernels] = contextvars.ContextVar("KERNELS")


def injected(notebook: NotebookNode, values: Mapping[str, Any]) -> NotebookNode:
    """A copy with papermill's cell that assigns `values`; papermill itself turns tuples to text."""
    done = copy.deepcopy(notebook)
    done.cells = [
        cell for cell in done.cells if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    place = next(
        i for i, cell in enumerate(done.cells) if "parameters" in cell.metadata.get("tags", [])
    )
    source = "\n".join(
        ["# Parameters", *(f"{name} = {_literal(value)}" for name, value in values.items())]
    )
    cell = new_code_cell(source, metadata={"tags": ["injected-parameters"]})
    if (done.nbformat, done.nbformat_minor) < (4, 5):  # cells without ids
        cell.pop("id", None)
    done.cells.insert(place + 1, cell)
    return done


def _literal(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{_literal(key)}: {_literal(one)}" for key, one in value.items()) + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if isinstance(value, tuple):
        return "(" + "".join(f"{_literal(one)}, " for one in value).rstrip() + ")"
    if isinstance(value, set | frozenset):
        return f"{type(value).__name__}({_literal(sorted(value, key=repr))})"
    return repr(value)


@contextlib.contextmanager
def kernel_manager(
    environment: Mapping[str, str], log: BinaryIO, record: dict[str, Any]
) -> Iterator[type[AsyncKernelManager]]:
    """A kernel manager class for a single run.

    Args:
        environment: variables of the kernel, besides this process's.
        log: receives the kernel process's output.
        record: receives "peak_memory_mib" at the end.
    """
    kernels = KERNELS.get(Kernels())
    with _socket_folder() as sockets:

        class Kernel(AsyncKernelManager):
            async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
                if sockets:
                    # Not TCP: kernels that start at once may draw the same port.
                    self.transport, self.ip = "ipc", f"{sockets}/k"
                await super().start_kernel(
                    env={**os.environ, **environment}, stdout=log, stderr=log, **options
                )
                kernels.begin(self.provisioner.pid)  # type: ignore[union-attr]

            async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:  # type: ignore[override]
                with contextlib.suppress(OSError, AttributeError):
                    status = Path(f"/proc/{self.provisioner.pid}/status").read_text()  # type: ignore[union-attr]
                    if peak := re.search(r"VmHWM:\s*(\d+) kB", status):
                        record["peak_memory_mib"] = round(int(peak[1]) / 1024, 1)
                kernels.end(getattr(self.provisioner, "pid", 0))
                await super().shutdown_kernel(now, restart)

        yield Kernel


@contextlib.contextmanager
def _socket_folder() -> Iterator[str]:
    """A folder for a kernel's sockets; "" without a short enough path."""
    for place in (tempfile.gettempdir(), "/tmp", "/var/tmp") if os.name == "posix" else ():
        if len(os.fsencode(place)) <= LONGEST_SOCKET - 20 and os.access(place, os.W_OK | os.X_OK):
            with tempfile.TemporaryDirectory(prefix="nb", dir=place) as folder:
                yield folder
            return
    yield ""
