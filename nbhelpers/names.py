"""Lazy imports of a package's names, and suggestions for misspelt names."""

import difflib
import importlib
from collections.abc import Callable, Iterable, Mapping


def near(given: object, known: Iterable[str], most: int = 4) -> list[str]:
    """Known names spelt like the given one, nearest first."""
    return difflib.get_close_matches(str(given), [*known], n=most, cutoff=0.4)


def first_use(package: str, where: Mapping[str, str]) -> Callable[[str], object]:
    """A package's `__getattr__` that imports names at first use.

    No module may share a function's name: its import would shadow the function.

    Args:
        package: its `__name__`.
        where: name → full name of the module that defines it.
    """

    def get(name: str) -> object:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(where[name]), name)

    return get
