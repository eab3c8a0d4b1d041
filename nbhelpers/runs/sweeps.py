"""Resumable sweeps: one notebook, many parameter sets, on one machine or a cluster.

    nbhelpers sweep notebooks/2_inversion.ipynb -p seed=0:5 -o runs/inversion
    nbhelpers report runs/inversion

Files are the only state. A run works in `.running/`, and its finished folder is renamed to its
place, so a kill leaves no partial run. A lock per run keeps two sweeps in one folder from repeating
it.
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
    """One parameter set and the notebook's code; picklable, for executors."""

    notebook: Path
    out: Path  # of the sweep, shared by all workers
    name: str  # of the run's folder
    index: int  # position in the plan
    parameters: Mapping[str, Any]  # complete, with the notebook's defaults
    retry: bool = False  # repeat if it failed before
    environment: Environment = field(default_factory=dict)  # of the kernel, besides the worker's
    asked: tuple[str, ...] = ()  # parameters to inject; others have the notebook's defaults
    made_from: Mapping[str, str] = field(default_factory=dict)  # digests of named files
    source: str = field(default="", repr=False)  # the notebook as JSON, without outputs
    kernel: str = ""  # an installed kernel's name
    code: str = ""  # the notebook's digest

    @property
    def folder(self) -> Path:
        return self.out / self.name

    @property
    def state(self) -> Literal["done", "failed", "open"]:
        """The state by the run's files."""
        if (self.folder / "result.json").exists():
            return "done"
        return "failed" if (self.folder / "error.txt").exists() else "open"


@dataclass(frozen=True)
class Outcome:
    """The result of a run."""

    run: Run
    state: Literal["done", "failed", "busy"]  # busy: locked by another sweep
    message: str = ""  # the error, one line
    fresh: bool = True  # False: of an earlier sweep


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
    """Run a notebook once per parameter set, each in its own folder.

    Finished runs are skipped, so the same call resumes a sweep. Ctrl-C discards unfinished runs.

    Args:
        notebook: has a cell tagged `parameters` with `out`, and calls `save_result(out, …)`.
        grid: parameter → value or values (list, tuple, range); all combinations, the last parameter
            fastest.
        out: folder for the runs, shared by all workers.
        executor: any `concurrent.futures.Executor`, such as Dask's `Client.get_executor()`; None
            for local kernel processes.
        presets: YAML files or mappings of parameters; later ones and `grid` override.
        jobs: concurrent local runs; None for one per GPU, else per core and 2 GiB of memory. They
            divide the cores and GPUs.
        retry_failed: repeat failed runs.

    Returns:
        One outcome per run, in the order of the grid.

    Raises:
        ValueError: before any run: unknown parameter, value of the wrong type, missing notebook or
            kernel, an unwritable folder, or one with runs of other parameters.
        KeyboardInterrupt: Ctrl-C.
    """
    runs = plan(notebook, grid, out, presets=presets, retry_failed=retry_failed)
    return run_all(runs, executor, jobs=jobs)


def run_all(
    runs: Sequence[Run], executor: Executor | None = None, *, jobs: int | None = None
) -> list[Outcome]:
    """Execute the unfinished of planned runs, of one or several notebooks.

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
    """The runs of a sweep, checked against the notebook's parameters and the folder.

    Args, Raises: as in `sweep`.
    """
    source, out = read_notebook(notebook), Path(out).resolve()
    values = axes(source, grid, presets)
    # Run names include every name of the grid, so a grid can get more values later.
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
        made_from = {
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
            made_from=made_from,
            source=source.source,
            kernel=source.kernel,
            code=source.code,
        )
        _check_same(run, chosen)
        runs.setdefault(name, run)
    return list(runs.values())


def execute(run: Run, wait: bool = False) -> Outcome:
    """Execute one run unless it is done; errors of the run are in the outcome.

    Args:
        run: picklable, for executors.
        wait: for another sweep's lock, instead of returning "busy".
    """
    try:
        (run.out / ".locks").mkdir(parents=True, exist_ok=True)
        with _lock(run, wait):
            if run.state == "done" or (run.state == "failed" and not run.retry):
                return known_outcome(run)
            working = run.out / ".running" / run.name
            # of a killed attempt, as the lock is ours
            shutil.rmtree(working, ignore_errors=True)
            # unique, as the kernel of a killed driver lives on for a second
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
        # such as a full disk, which prevents error.txt too
        return Outcome(run, "failed", f"not recorded, {type(error).__name__}: {error}")


@contextlib.contextmanager
def _lock(run: Run, wait: bool) -> Iterator[None]:
    """The run's lock; Timeout if another sweep has it, or if this one was stopped."""
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
    """The outcome recorded in the run's folder."""
    if run.state == "done":
        return Outcome(run, "done", fresh=False)
    lines = (run.folder / "error.txt").read_text(encoding="utf-8").splitlines()
    return Outcome(run, "failed", lines[0] if lines else "", fresh=False)


def _gather(
    executor: Executor, job: Callable[[Run, bool], Outcome], runs: Sequence[Run], kernels: Kernels
) -> list[Outcome]:
    """Submit unfinished runs, print failures, then wait for runs of other sweeps."""
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
                        # of the executor: a dead worker, a broken pool
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
    """Run the notebook in `folder` and write its records; returns a one-line error or ""."""
    record: dict[str, Any] = {
        "notebook": run.notebook.name,
        "code": run.code,
        "index": run.index,
        "parameters": dict(run.parameters),
        "made_from": dict(run.made_from),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "peak_memory_mib": None,  # of the kernel, resident; None if unknown
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
    except Exception as error:  # such as a dead or missing kernel, or a full disk
        message = f"{type(error).__name__}: {error}"
    message = " ".join(_plain(message).split())
    record["duration_s"] = round(time.monotonic() - began, 3)
    if not (folder / "kernel.log").stat().st_size:
        (folder / "kernel.log").unlink()
    if executed.exists():  # `out` should name the final folder
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
    """Execute the notebook in its own kernel, and record the peak memory."""
    given = {name: run.parameters[name] for name in run.asked}
    notebook = with_kernel(nbformat.from_dict(json.loads(run.source)), run.kernel)
    nbformat.write(injected(notebook, {**given, "out": str(folder)}), executed)
    path = str(executed).replace("{", "{{").replace("}", "}}")  # papermill formats paths
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
            loop = ensure_event_loop()  # this thread's loop, which nbclient leaves open
            if not loop.is_running():
                loop.close()


def _publish(folder: Path, place: Path) -> None:
    """Move a finished folder to its place, replacing a failed attempt."""
    if place.exists():
        os.rename(place, folder.with_suffix(".old"))
    os.rename(folder, place)


def _write(path: Path, text: str) -> None:
    """Write and flush a file, so a full disk raises here."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", text)  # colours of IPython's tracebacks


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
    """Refuse a finished run with other parameters, as after a change of a preset or default."""
    if run.state == "open":
        return
    try:
        record = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
        before = record["parameters"]
    except (OSError, ValueError, KeyError):
        return
    wanted = json.loads(json.dumps(run.parameters, default=str))
    typed = json.loads(json.dumps({**typed}, default=str))  # earlier versions kept relative paths
    if changed := [
        n for n in wanted if n in before and before[n] != wanted[n] and before[n] != typed.get(n)
    ]:
        name = changed[0]
        raise ValueError(
            f"{run.folder} was run with {name}={before[name]!r}, now wanted with "
            f"{wanted[name]!r}; choose another folder, or sweep over {name} with -p"
        )
    was = record.get("made_from", {})  # missing in runs of earlier versions
    if other := [key for key, digest in run.made_from.items() if was.get(key, digest) != digest]:
        raise ValueError(
            f"{run.folder} was run with other contents of {run.parameters[other[0]]}; choose "
            "another folder"
        )
