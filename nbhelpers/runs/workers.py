"""Who does the work: cores, GPUs and Dask, shared out among jobs."""

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
    """An environment per job, which among themselves share out the cores and the GPUs; no more
    jobs than `runs`.
    """
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
    """A job per GPU, or else per core, as far as memory allows (2 GiB each)."""
    if gpus:
        return gpus
    gib = (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**30
        if hasattr(os, "sysconf")
        else 8
    )
    return max(1, min(cores(), gib // 2))


def cores() -> int:
    """Cores this process may use, a container's quota included."""
    count = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, max(1, int(quota) // int(period)))
    return count


def thread_environment(jobs: int) -> Environment:
    """Cores over jobs; an OMP_NUM_THREADS that is set already stands."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // jobs))
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    # Waiting threads would spin on the cores of other jobs. GNU's OpenMP goes by GOMP_SPINCOUNT,
    # which jobs inherit.
    return {"OMP_WAIT_POLICY": "PASSIVE", **counts}


@contextlib.contextmanager
def dask_executor(address: str, jobs: int | None = None) -> Iterator[Executor]:
    """Dask's executor: of the scheduler at `address`, or of a cluster on this machine for "local".

    Raises:
        ValueError: Dask is not installed, or there is no scheduler at the address.
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
            quiet = logging.ERROR  # a worker that is slow to end is no news
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
    """A process per job, each with its share of cores and GPUs; None for one job, which this
    process does itself.
    """
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
        except BaseException:  # Ctrl-C among them: nothing is begun any more, nothing goes on
            pool.shutdown(wait=False, cancel_futures=True)
            _end_children()
            raise


def _end_children(patience: float = 10.0) -> None:
    """End this process's workers; each has time to take its half-written file away."""
    end = time.monotonic() + patience
    while children := multiprocessing.active_children():
        for child in children:
            if time.monotonic() < end:
                child.terminate()  # again where it has begun another shard meanwhile
            else:
                child.kill()
        for child in children:
            child.join(0.5)


def _enter(environments: Any) -> None:
    # Ctrl-C in a terminal reaches all processes of the group; who decides is the one that started
    # them. SystemExit, unlike a kill, lets a shard's temporary file be removed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    environment = environments.get()
    os.environ.update(environment)  # no CUDA call was made yet, so its visible devices still count
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
