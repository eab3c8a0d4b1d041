"""Many runs: sweeps of a notebook, whole data sets in shards, reports; here, on many cores, or
on a cluster.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbhelpers.runs.reports import report
    from nbhelpers.runs.shards import make_shards, read_shards
    from nbhelpers.runs.sweeps import plan, sweep
    from nbhelpers.runs.workers import dask_executor

# Loaded at their first use: shards do without papermill, and a sweep without matplotlib. No module
# may have a function's name: once imported it would stand in the function's place.
_WHERE = {
    "dask_executor": "workers",
    "make_shards": "shards",
    "plan": "sweeps",
    "read_shards": "shards",
}
_WHERE |= {"report": "reports", "sweep": "sweeps"}


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module 'nbhelpers.runs' has no attribute {name!r}")
    return getattr(importlib.import_module(f"nbhelpers.runs.{_WHERE[name]}"), name)


__all__ = ["dask_executor", "make_shards", "plan", "read_shards", "report", "sweep"]
