"""Executors and shares of cores and GPUs for jobs."""

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

Environment = Mapping[str, str]


def shares(jobs: int | None, runs: int | None = None) -> list[Environment]:
    """Environments of at most `runs` jobs, which divide the cores and GPUs."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    jobs = default_jobs(len(gpus)) if jobs is None else jobs
    if jobs < 1:
        raise ValueError(f"jobs: got {jobs}, wanted at least 1")
    jobs = min(jobs, runs or jobs)
    threads = thread_environment(jobs)
    return [
        {**threads, **({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {})}
        for i in range(jobs)
    ]


def default_jobs(gpus: int = 0) -> int:
    """One job per GPU, else per core and 2 GiB of memory."""
    if gpus:
        return gpus
    gib = (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**30
        if hasattr(os, "sysconf")
        else 8
    )
    return max(1, min(cores(), gib // 2))


def cores() -> int:
    """Cores available to this process, within a container's quota."""
    count = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, max(1, int(quota) // int(period)))
    return count


def thread_environment(jobs: int) -> Environment:
    """Threads per job, cores / jobs; a user's OMP_NUM_THREADS is kept."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // jobs))
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    # Waiting threads would spin on other jobs' cores. GNU OpenMP uses the inherited GOMP_SPINCOUNT.
    return {"OMP_WAIT_POLICY": "PASSIVE", **counts}


@contextlib.contextmanager
def dask_executor(address: str, jobs: int | None = None) -> Iterator[Executor]:
    """A Dask executor, of the scheduler at `address`, or of a new cluster here for "local".

    Raises:
        ValueError: Dask is not installed, or no scheduler at the address.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise ValueError("Dask is not installed: uv pip install distributed") from None
    with contextlib.ExitStack() as stack:
        target: Any = address
        if address == "local":
            jobs = jobs or default_jobs()
            threads = dict(thread_environment(jobs))
            quiet = logging.ERROR  # no warnings about slow shutdown
            cluster = LocalCluster(
                n_workers=jobs,
                threads_per_worker=1,
                dashboard_address=None,
                env=threads,
                silence_logs=quiet,
            )
            target = stack.enter_context(cluster)
        try:
            client = stack.enter_context(Client(target))
        except (OSError, ValueError) as error:
            raise ValueError(f"no Dask scheduler at {address}: {error}") from error
        yield client.get_executor(pure=False)


@contextlib.contextmanager
def processes(jobs: int) -> Iterator[Executor | None]:
    """A process pool that divides the cores and GPUs; None for one job, in this process."""
    if jobs == 1:
        yield None
        return
    context = multiprocessing.get_context("spawn")
    environments = context.SimpleQueue()
    for environment in shares(jobs):
        environments.put(dict(environment))
    with ProcessPoolExecutor(jobs, context, _enter, (environments,)) as pool:
        try:
            yield pool
        except BaseException:  # Ctrl-C included: stop all work
            pool.shutdown(wait=False, cancel_futures=True)
            _end_children()
            raise


def _end_children(patience: float = 10.0) -> None:
    """Terminate the workers, with time to delete partial files."""
    end = time.monotonic() + patience
    while children := multiprocessing.active_children():
        for child in children:
            if time.monotonic() < end:
                child.terminate()  # repeatedly, as it may have begun another shard
            else:
                child.kill()
        for child in children:
            child.join(0.5)


def _enter(environments: Any) -> None:
    # Ctrl-C reaches the whole process group; only the parent reacts. SystemExit, unlike a kill,
    # removes a shard's temporary file.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    environment = environments.get()
    os.environ.update(environment)  # before any CUDA call, so its visible devices count
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
