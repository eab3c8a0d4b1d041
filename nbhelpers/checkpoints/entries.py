"""The manifest of networks and their training data sets."""

import contextlib
import functools
import re
import runpy
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from filelock import FileLock

from nbhelpers import files
from nbhelpers.files import write_text
from nbhelpers.names import near


@dataclass(frozen=True)
class Entry:
    """The manifest's facts of one network. Accuracies are percentages."""

    name: str
    file: str
    architecture: str  # "resnet18" (nbhelpers.networks.resnets), "torchvision:resnet50", …
    arguments: Mapping[str, Any] = field(default_factory=dict)
    dataset: str = ""
    classes: tuple[str, ...] = ()  # ("torchvision",): its ImageNet names, resolved by `entry`
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    image_size: int | tuple[int, ...] = 0  # pixels, or (height, width)
    sha256: str = ""  # of `file`; "": recorded at first use
    size: int = 0  # bytes of `file`; 0: unknown
    urls: tuple[str, ...] = ()  # tried in order
    training: Mapping[str, Any] = field(default_factory=dict)
    accuracy: Mapping[str, Any] = field(default_factory=dict)  # measured here
    published: Mapping[str, Any] = field(default_factory=dict)  # with its source
    # or "weights written by the real library", "documented format only"
    verified: str = "real weights"


def manifest() -> dict[str, Entry]:
    """Name → entry of checkpoints/manifest.toml.

    Raises:
        ValueError: unparsable, or an entry with an unknown or missing field.
    """
    return dict(_parsed(*_version())[0])


def _version() -> tuple[Path, tuple[int, ...]]:
    """The manifest's path, and a cache key that changes with the file."""
    path = files.CHECKPOINTS / "manifest.toml"
    try:
        about = path.stat()
    except OSError as error:
        raise ValueError(f"cannot read the manifest {path}: {error}") from None
    return path, (about.st_mtime_ns, about.st_ctime_ns, about.st_size, about.st_ino)


@functools.lru_cache(maxsize=4)
def _parsed(
    path: Path, version: tuple[int, ...]
) -> tuple[dict[str, Entry], dict[str, dict[str, Any]]]:
    """The manifest's networks and data sets, cached until the file changes."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the manifest {path}: {error}") from None
    datasets = tables.pop("datasets", {})
    entries = {
        name: entry_of(name, {**datasets.get(table.get("dataset"), {}), **table})
        for name, table in tables.items()
    }
    return entries, datasets


def entry_of(name: str, table: Mapping[str, Any]) -> Entry:
    """A checked entry; lists become tuples.

    Raises:
        ValueError: an unknown or missing field, or a wrong type.
    """
    known = {f.name for f in fields(Entry)}
    if unknown := set(table) - known:
        raise ValueError(
            f"checkpoint {name!r}: unknown fields {sorted(unknown)}; known are {sorted(known)}"
        )
    lists: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in table.items()
    }
    lists["name"] = name
    for one in fields(Entry):
        options = get_args(one.type) if isinstance(one.type, UnionType) else (one.type,)
        kinds: Any = tuple(get_origin(option) or option for option in options)
        if one.name in lists and not isinstance(lists[one.name], kinds):
            raise ValueError(
                f"checkpoint {name!r}: {one.name} is {lists[one.name]!r:.60}, wanted {one.type}"
            )
    try:
        return Entry(**lists)
    except TypeError as error:
        raise ValueError(f"checkpoint {name!r}: {error}") from None


def entry(name: str) -> Entry:
    """The manifest's entry of a name.

    Raises:
        ValueError: unknown name; the message lists similar ones.
    """
    entries = manifest()
    if name not in entries:
        names = ", ".join(near(name, entries) or sorted(entries))
        raise ValueError(
            f"unknown checkpoint {name!r}; near names: {names} (all: nb.checkpoints.manifest())"
        )
    found = entries[name]
    if found.classes == ("torchvision",):
        found = replace(found, classes=imagenet_classes())
    return found


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """torchvision's names of the 1,000 ImageNet classes."""
    # The list alone: importing torchvision also loads torch._dynamo, 4 s on a slow core.
    with contextlib.suppress(OSError, KeyError, PackageNotFoundError):
        path = distribution("torchvision").locate_file("torchvision/models/_meta.py")
        return tuple(runpy.run_path(str(path))["_IMAGENET_CATEGORIES"])
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])


def write_entry(about: Entry) -> None:
    """Add or replace one entry of checkpoints/manifest.toml; the rest is unchanged."""
    import tomlkit

    path = files.CHECKPOINTS / "manifest.toml"
    with FileLock(path.with_suffix(".lock")):
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        shared = tomllib.loads("\n".join(lines)).get("datasets", {}).get(about.dataset, {})
        table = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(about).items()
        }
        kept = {k: v for k, v in table.items() if v and k != "name" and shared.get(k) != v}
        heads = [i for i, line in enumerate(lines) if line.startswith("[")]
        own = [i for i in heads if re.match(rf"""\[("?){re.escape(about.name)}\1[].]""", lines[i])]
        start = own[0] if own else len(lines)
        end = next((i for i in heads if own and i > own[-1]), len(lines))
        while end > start and (not lines[end - 1] or lines[end - 1].startswith("#")):
            end -= 1  # comments above the next entry belong to it
        fresh = ([] if own or not lines else [""]) + tomlkit.dumps({about.name: kept}).splitlines()
        write_text(path, "\n".join([*lines[:start], *fresh, *lines[end:]]) + "\n")


def dataset_facts(name: str) -> dict[str, Any]:
    """Mean, std, classes and image size of a data set in the manifest's [datasets].

    Raises:
        ValueError: unknown name.
    """
    tables = _parsed(*_version())[1]
    if name not in tables:
        names = ", ".join(near(name, tables) or [*tables][:6])
        raise ValueError(f"dataset: got {name!r}, wanted for instance {names}")
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in tables[name].items()
    }
