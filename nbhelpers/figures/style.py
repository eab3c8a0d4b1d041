"""One style for every figure, independent of the user's matplotlib settings."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar

import matplotlib
import matplotlib.style

P = ParamSpec("P")
T = TypeVar("T")

_LOOK: dict[Any, Any] = {
    "svg.hashsalt": "nbhelpers",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
_LOCK = threading.RLock()  # matplotlib's settings are global, demos draw in threads


@contextlib.contextmanager
def house_style(settings: Mapping[Any, Any] | None = None) -> Iterator[None]:
    """Matplotlib's defaults with `settings` in the block, which must both make and draw figures."""
    with _LOCK, matplotlib.style.context("default"):
        matplotlib.rcParams.update({**_LOOK, **(settings or {})})
        yield


def in_house_style(function: Callable[P, T]) -> Callable[P, T]:
    """`function`, run inside `house_style`."""

    @functools.wraps(function)
    def styled(*args: P.args, **options: P.kwargs) -> T:
        with house_style():
            return function(*args, **options)

    return styled
