"""Many runs: sweeps of a notebook, whole data sets in shards, reports; here, on many cores, or on a cluster."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbhelpers.runs.report import report
    from nbhelpers.runs.shards import make_shards, read_shards
    from nbhelpers.runs.sweep import plan, sweep
    from nbhelpers.runs.workers import dask_executor

# Loaded at their first use: shards do without papermill, and a sweep without matplotlib.
_WHERE = {"dask_executor": "workers", "make_shards": "shards", "plan": "sweep", "read_shards": "shards"}
_WHERE |= {"report": "report", "sweep": "sweep"}


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module 'nbhelpers.runs' has no attribute {name!r}")
    return getattr(importlib.import_module(f"nbhelpers.runs.{_WHERE[name]}"), name)


__all__ = ["dask_executor", "make_shards", "plan", "read_shards", "report", "sweep"]
