"""Names of a package that are loaded at their first use."""

import importlib
from collections.abc import Callable, Mapping


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
