"""Progress bars for the package's loops; importing this module shows them."""

import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

from nbhelpers.passes import show_progress

T = TypeVar("T")


def progress(items: Iterable[T] | None = None, **options: Any) -> tqdm:
    """A bar that appears after two seconds and goes when all is done.

    In a notebook it is not on the red ground of errors.
    """
    in_notebook = hasattr(sys.stdout, "pub_thread")  # the stream of a kernel, not a terminal's
    return tqdm(
        items, delay=2, leave=False, file=sys.stdout if in_notebook else sys.stderr, **options
    )


show_progress(progress)
