"""Many runs, locally or on a cluster: notebook sweeps, sharded data sets, reports."""

from typing import TYPE_CHECKING

from nbhelpers.names import first_use

if TYPE_CHECKING:
    from nbhelpers.runs.reports import report
    from nbhelpers.runs.shards import make_shards, read_shards
    from nbhelpers.runs.sweeps import plan, sweep
    from nbhelpers.runs.workers import dask_executor

# Imported at first use: shards need no papermill, sweeps no matplotlib.
_WHERE = {
    "dask_executor": "nbhelpers.runs.workers",
    "make_shards": "nbhelpers.runs.shards",
    "plan": "nbhelpers.runs.sweeps",
    "read_shards": "nbhelpers.runs.shards",
    "report": "nbhelpers.runs.reports",
    "sweep": "nbhelpers.runs.sweeps",
}
__getattr__ = first_use(__name__, _WHERE)

__all__ = ["dask_executor", "make_shards", "plan", "read_shards", "report", "sweep"]
