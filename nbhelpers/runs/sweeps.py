"""One notebook, many parameter sets, on one machine or a cluster; what is done stays done.

    nbhelpers sweep notebooks/2_inversion.ipynb -p seed=0:5 -o runs/inversion
    nbhelpers report runs/inversion

Files are the only state. A run works in `.running/`; its whole folder is then renamed to its place,
so a kill at any moment leaves a run either absent or whole. A lock per run keeps two sweeps into
one folder from doing a run twice.
"""

import contextlib
import itertools
import json
import os
import platform
import queue
import re
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import nbformat
import papermill
from filelock import FileLock, Timeout
from jupyter_core.utils import ensure_event_loop
from tqdm import tqdm

from nbhelpers.runs.grid import axes, run_name
from nbhelpers.runs.inject import KERNELS, Kernels, injected, kernel_manager
from nbhelpers.runs.inputs import content, located
from nbhelpers.runs.parameters import Notebook, read_notebook, with_kernel
from nbhelpers.runs.workers import Environment, shares


@dataclass(frozen=True)
class Run:
    """One parameter set of a notebook; picklable, so that any executor can carry it.

    It brings the notebook's code along, so that all runs of a sweep are of the same.
    """

    notebook: Path
    out: Path  # of the sweep, shared by all workers
    name: str  # of the run's folder
    index: int  # place in the plan
    parameters: Mapping[str, Any]  # complete, the notebook's defaults included
    retry: bool = False  # once more if it failed before
    environment: Environment = field(default_factory=dict)  # of the kernel, on top of the worker's
    # parameters that the kernel is given; the others it has from the notebook
    asked: tuple[str, ...] = ()
    # digests of what checkpoints and data sets hold
    made_from: Mapping[str, str] = field(default_factory=dict)
    source: str = field(default="", repr=False)  # the notebook as JSON, without outputs
    kernel: str = ""  # by its name, installed here
    code: str = ""  # the notebook's digest

    @property
    def folder(self) -> Path:
        return self.out / self.name

    @property
    def state(self) -> Literal["done", "failed", "open"]:
        """What the files say."""
        if (self.folder / "result.json").exists():
            return "done"
        return "failed" if (self.folder / "error.txt").exists() else "open"


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    run: Run
    state: Literal["done", "failed", "busy"]  # busy: another sweep is at it
    message: str = ""  # the error, in a line
    fresh: bool = True  # False: it had ended before


def sweep(
    notebook: str | Path | Notebook,
    grid: Mapping[str, Any],
    out: str | Path,
    executor: Executor | None = None,
    *,
    presets: Sequence[str | Path | Mapping[str, Any]] = (),
    jobs: int | None = None,
    retry_failed: bool = False,
) -> list[Outcome]:
    """Run a notebook once per parameter set and keep each run in a folder of its own.

    A run that is done is skipped, so the same call again completes what a crash has left. Ctrl-C
    ends the runs in flight, of which nothing is kept.

    Args:
        notebook: has a cell tagged `parameters`, `out` among them, and saves with `save_result(out,
            …)`.
        grid: parameter → value or values (list, tuple, range); all combinations are run, the last
            one fastest.
        out: folder for the runs, shared by all workers.
        executor: any `concurrent.futures.Executor`, such as Dask's `Client.get_executor()`; None
            for threads here, each of which drives one kernel process.
        presets: YAML files of parameters, or such parameters; later ones override earlier ones,
            and `grid` overrides them all.
        jobs: runs at a time without `executor`; None for one per GPU, or else per core and 2 GiB of
            memory. Cores and GPUs are shared out among them.
        retry_failed: run again what failed before.

    Returns:
        One outcome per run, in the order of the grid.

    Raises:
        ValueError: an unknown parameter, a value of the wrong type, no such notebook or kernel, a
            folder that cannot be written, or one that holds runs with other parameters. Nothing has
            been run then.
        KeyboardInterrupt: Ctrl-C.
    """
    runs = plan(notebook, grid, out, presets=presets, retry_failed=retry_failed)
    return run_all(runs, executor, jobs=jobs)


def run_all(
    runs: Sequence[Run], executor: Executor | None = None, *, jobs: int | None = None
) -> list[Outcome]:
    """Do planned runs, of one notebook or of several, and skip those that are done.

    Args, Returns, Raises: as in `sweep`.
    """
    for out in dict.fromkeys(run.out for run in runs):
        _check_folder(out)
    kernels = Kernels()
    if executor is not None:
        return _gather(executor, execute, runs, kernels)
    environments: queue.SimpleQueue[Environment] = queue.SimpleQueue()
    for environment in shares(jobs, len(runs)):
        environments.put(environment)

    def job(run: Run, wait: bool) -> Outcome:
        environment = environments.get()
        KERNELS.set(kernels)
        try:
            return execute(replace(run, environment=environment), wait)
        finally:
            environments.put(environment)

    with ThreadPoolExecutor(environments.qsize()) as pool:
        return _gather(pool, job, runs, kernels)


def plan(
    notebook: str | Path | Notebook,
    grid: Mapping[str, Any],
    out: str | Path,
    *,
    presets: Sequence[str | Path | Mapping[str, Any]] = (),
    retry_failed: bool = False,
) -> list[Run]:
    """The runs of a sweep, checked against the notebook's parameters and against what is in the
    folder.

    Args, Raises: as in `sweep`.
    """
    source, out = read_notebook(notebook), Path(out).resolve()
    values = axes(source, grid, presets)
    # Every name of the grid is part of a run's name even if it has one value, so that a grid can
    # grow later.
    named = [name for name in values if name in grid or len(values[name]) > 1]
    notebook, own = source.path, source.defaults
    runs: dict[str, Run] = {}
    digests: dict[str, str] = {}

    def digest_of(key: str, value: Any) -> str:
        if (about := f"{key}={value!r}") not in digests:
            digests[about] = content(key, value, notebook)
        return digests[about]

    pairs = {
        key: [(value, located(key, value, notebook)) for value in typed]
        for key, typed in values.items()
    }
    for combination in itertools.product(*pairs.values()):
        chosen, whole = (
            {key: pair[i] for key, pair in zip(pairs, combination, strict=True)} for i in (0, 1)
        )
        name = run_name({key: chosen[key] for key in named})
        parameters = {**own, **whole}
        held = {
            key: digest for key, value in parameters.items() if (digest := digest_of(key, value))
        }
        run = Run(
            notebook,
            out,
            name,
            len(runs),
            parameters,
            retry_failed,
            asked=tuple(whole),
            made_from=held,
            source=source.source,
            kernel=source.kernel,
            code=source.code,
        )
        _check_same(run, chosen)
        runs.setdefault(name, run)
    return list(runs.values())


def execute(run: Run, wait: bool = False) -> Outcome:
    """Do one run, unless it is done. Never raises for what happens in the run.

    Submitted to executors, hence picklable.

    Args:
        run: what to do.
        wait: until another sweep is through with it, rather than coming back with "busy".
    """
    try:
        (run.out / ".locks").mkdir(parents=True, exist_ok=True)
        with _lock(run, wait):
            if run.state == "done" or (run.state == "failed" and not run.retry):
                return known_outcome(run)
            working = run.out / ".running" / run.name
            # of a killed attempt: whoever holds the lock is alone
            shutil.rmtree(working, ignore_errors=True)
            # its own, for the kernel of a killed driver lives on for a second
            folder = working / uuid.uuid4().hex[:8]
            folder.mkdir(parents=True)
            try:
                message = _attempt(run, folder)
                if KERNELS.get(Kernels()).stopped:
                    return Outcome(run, "busy")
                _publish(folder, run.folder)
            finally:
                shutil.rmtree(working, ignore_errors=True)
            return Outcome(run, "failed" if message else "done", message)
    except Timeout:
        return Outcome(run, "busy")
    except (OSError, ValueError) as error:
        # the disk is full, say, so that not even the error could be kept
        return Outcome(run, "failed", f"not recorded, {type(error).__name__}: {error}")


@contextlib.contextmanager
def _lock(run: Run, wait: bool) -> Iterator[None]:
    """The run's lock; raises Timeout where another sweep has it, or where this one was stopped."""
    lock, kernels = FileLock(run.out / ".locks" / run.name), KERNELS.get(Kernels())
    while not lock.is_locked:
        try:
            lock.acquire(timeout=1 if wait else 0)
        except Timeout:
            if kernels.stopped or not wait:
                raise
    try:
        yield
    finally:
        lock.release()


def known_outcome(run: Run) -> Outcome:
    """The outcome that an earlier sweep has left in the run's folder."""
    if run.state == "done":
        return Outcome(run, "done", fresh=False)
    lines = (run.folder / "error.txt").read_text(encoding="utf-8").splitlines()
    return Outcome(run, "failed", lines[0] if lines else "", fresh=False)


def _gather(
    executor: Executor, job: Callable[[Run, bool], Outcome], runs: Sequence[Run], kernels: Kernels
) -> list[Outcome]:
    """Submit what is open, show failures as they come, then wait for what other sweeps are at."""
    outcomes = {
        run.folder: known_outcome(run)
        if run.state == "done" or (run.state == "failed" and not run.retry)
        else None
        for run in runs
    }
    todo = [run for run in runs if outcomes[run.folder] is None]
    with tqdm(total=len(runs), initial=len(runs) - len(todo), unit="run") as bar:
        for wait in (False, True):
            futures = {executor.submit(job, run, wait): run for run in todo}
            todo = []
            try:
                for future in as_completed(futures):
                    run = futures.pop(future)
                    try:
                        outcome = future.result()
                    except Exception as error:
                        # the executor's own: a worker that died too often, a broken pool
                        outcome = Outcome(
                            run, "failed", f"not recorded, {type(error).__name__}: {error}"
                        )
                    if outcome.state == "busy":
                        todo.append(run)
                        continue
                    if outcome.state == "failed":
                        bar.write(f"failed: {run.folder}: {outcome.message}", file=sys.stderr)
                    outcomes[run.folder] = outcome
                    bar.update()
            except KeyboardInterrupt:
                for future in futures:
                    future.cancel()
                kernels.stop()
                raise
    return [outcome for outcome in outcomes.values() if outcome is not None]


def _attempt(run: Run, folder: Path) -> str:
    """Run the notebook in `folder` and complete the records there; the error in a line, or
    nothing.
    """
    record: dict[str, Any] = {
        "notebook": run.notebook.name,
        "code": run.code,
        "index": run.index,
        "parameters": dict(run.parameters),
        "made_from": dict(run.made_from),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "peak_memory_mib": None,  # resident, of the kernel; None where the system does not tell
    }
    began, message, details, result = time.monotonic(), "", "", {}
    executed, saved = folder / run.notebook.name, folder / "result.json"
    try:
        _papermill(run, folder, executed, record)
        if saved.exists():
            result = json.loads(saved.read_text(encoding="utf-8"))
        else:
            message = (
                "the notebook saved no result.json; its last cell should call "
                "nb.save_result(out, …)"
            )
    except papermill.PapermillExecutionError as error:
        message, details = f"{error.ename}: {error.evalue}", str(error)
    except Exception as error:  # a dead kernel, a full disk, a kernel that is not installed
        message = f"{type(error).__name__}: {error}"
    message = " ".join(_plain(message).split())
    record["duration_s"] = round(time.monotonic() - began, 3)
    if not (folder / "kernel.log").stat().st_size:
        (folder / "kernel.log").unlink()
    if executed.exists():  # its parameters should name the place where the files will be
        text = executed.read_text(encoding="utf-8").replace(str(folder), str(run.folder))
        _write(executed, text)
    if message:
        saved.unlink(missing_ok=True)  # a cell after save_result may have failed
        _write(folder / "error.txt", f"{message}\n\n{_plain(details)}")
        record["error"] = message
    else:
        extra = {key: record[key] for key in ("duration_s", "peak_memory_mib")}
        _write(saved, json.dumps(result | extra, indent=1, ensure_ascii=False))
    _write(folder / "run.json", json.dumps(record, indent=1, ensure_ascii=False, default=str))
    return message


def _papermill(run: Run, folder: Path, executed: Path, record: dict[str, Any]) -> None:
    """Execute the notebook in a kernel with its own environment, and record the kernel's peak
    memory.
    """
    given = {name: run.parameters[name] for name in run.asked}
    notebook = with_kernel(nbformat.from_dict(json.loads(run.source)), run.kernel)
    nbformat.write(injected(notebook, {**given, "out": str(folder)}), executed)
    path = str(executed).replace("{", "{{").replace("}", "}}")  # papermill fills in braces
    with (
        open(folder / "kernel.log", "wb") as log,
        kernel_manager(run.environment, log, record) as manager,
    ):
        try:
            papermill.execute_notebook(
                path,
                path,
                progress_bar=False,
                kernel_manager_class=manager,
                # papermill's `cwd` moves all threads
                resources={"metadata": {"path": str(run.notebook.parent)}},
            )
        finally:
            loop = ensure_event_loop()  # of this thread, made by nbclient, which leaves it open
            if not loop.is_running():
                loop.close()


def _publish(folder: Path, place: Path) -> None:
    """Put a complete folder in its place in one move; a failed attempt that stood there gives
    way.
    """
    if place.exists():
        os.rename(place, folder.with_suffix(".old"))
    os.rename(folder, place)


def _write(path: Path, text: str) -> None:
    """Write a file of a folder that is not in its place yet; flushed, so that a full disk is
    noticed here.
    """
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", text)  # IPython's tracebacks are coloured


def _check_folder(out: Path) -> None:
    try:
        (out / ".locks").mkdir(parents=True, exist_ok=True)
        (out / ".running").mkdir(exist_ok=True)
        probe = out / ".running" / f"probe.{uuid.uuid4().hex[:8]}"
        probe.write_text("room for a word")
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"cannot write to {out}: {error.strerror}; choose another folder with -o"
        ) from error


def _check_same(run: Run, typed: Mapping[str, Any]) -> None:
    """Refuse a folder of that name with other parameters: a preset or a default has changed
    since.
    """
    if run.state == "open":
        return
    try:
        record = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
        before = record["parameters"]
    except (OSError, ValueError, KeyError):
        return
    wanted = json.loads(json.dumps(run.parameters, default=str))
    typed = json.loads(json.dumps({**typed}, default=str))  # as earlier versions recorded a path
    if changed := [
        n for n in wanted if n in before and before[n] != wanted[n] and before[n] != typed.get(n)
    ]:
        name = changed[0]
        raise ValueError(
            f"{run.folder} was run with {name}={before[name]!r}, now wanted with "
            f"{wanted[name]!r}; choose another folder, or sweep over {name} with -p"
        )
    held = record.get("made_from", {})  # which runs of earlier versions do not tell
    if other := [key for key, digest in run.made_from.items() if held.get(key, digest) != digest]:
        raise ValueError(
            f"{run.folder} was run with other contents of {run.parameters[other[0]]}; choose "
            "another folder"
        )
