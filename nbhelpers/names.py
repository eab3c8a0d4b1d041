"""Names: of a package, loaded at their first use; and those near to one that is unknown."""

import difflib
import importlib
from collections.abc import Callable, Iterable, Mapping


def near(given: object, known: Iterable[str], most: int = 4) -> list[str]:
    """Those of the known names that are spelt like the given one, the nearest first; maybe none."""
    return difflib.get_close_matches(str(given), [*known], n=most, cutoff=0.4)


def first_use(package: str, where: Mapping[str, str]) -> Callable[[str], object]:
    """The `__getattr__` of a package whose names are loaded at their first use.

    No module may have a function's name: once imported it would take the function's place.

    Args:
        package: its `__name__`.
        where: name → full name of the module that defines it.
    """

    def get(name: str) -> object:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(where[name]), name)

    return get
