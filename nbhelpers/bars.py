"""Progress bars of the package's loops, enabled by importing this module."""

import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

from nbhelpers.passes import show_progress

T = TypeVar("T")


def progress(items: Iterable[T] | None = None, **options: Any) -> tqdm:
    """A bar shown after two seconds, removed at the end."""
    # A kernel's stdout: notebooks show stderr in red, as errors.
    stream = sys.stdout if hasattr(sys.stdout, "pub_thread") else sys.stderr
    return tqdm(items, delay=2, leave=False, file=stream, **options)


show_progress(progress)
