"""The manifest: what is known of each network, and of the data sets they were trained on."""

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from filelock import FileLock

from nbhelpers import files
from nbhelpers.files import write_text
from nbhelpers.names import near


@dataclass(frozen=True)
class Entry:
    """What the manifest says of one network. Accuracies are percentages."""

    name: str
    file: str
    # "resnet18" is a CIFAR ResNet of nbhelpers.networks.resnets, "torchvision:resnet50"
    # torchvision's
    architecture: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    dataset: str = ""
    # ("torchvision",) for its names of ImageNet's; `entry` spells them out
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    image_size: int | tuple[int, ...] = 0  # pixels; (height, width) where they differ
    sha256: str = ""  # of `file`; empty: recorded at first use
    size: int = 0  # bytes of `file`; 0: unknown
    urls: tuple[str, ...] = ()  # tried in order
    training: Mapping[str, Any] = field(default_factory=dict)
    accuracy: Mapping[str, Any] = field(default_factory=dict)  # measured here
    published: Mapping[str, Any] = field(default_factory=dict)  # from the source it names
    verified: str = (
        "real weights"  # or "weights written by the real library", "documented format only"
    )


def manifest() -> dict[str, Entry]:
    """Every entry of checkpoints/manifest.toml, by name.

    Raises:
        ValueError: the manifest cannot be parsed, or an entry has an unknown or a missing field.
    """
    return dict(_parsed(*_version())[0])


def _version() -> tuple[Path, tuple[int, ...]]:
    """The manifest's file, and what changes whenever the file does."""
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
    """The manifest's networks and its data sets; a file that has not changed is parsed once."""
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
    """An entry of its fields, checked; lists become tuples.

    Raises:
        ValueError: an unknown or a missing field, or one of another type.
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
    """The manifest's entry of that name.

    Raises:
        ValueError: no such name; the message lists the near ones.
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


def imagenet_classes() -> tuple[str, ...]:
    """The names of ImageNet's 1,000 classes, as torchvision has them."""
    from torchvision.models import ResNet18_Weights  # here, as it takes seconds to import

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])


def write_entry(about: Entry) -> None:
    """Put one entry into checkpoints/manifest.toml, or replace it; the rest of the file stays as
    it is.
    """
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
            end -= 1  # a comment above the next entry is that one's
        fresh = ([] if own or not lines else [""]) + tomlkit.dumps({about.name: kept}).splitlines()
        write_text(path, "\n".join([*lines[:start], *fresh, *lines[end:]]) + "\n")


def dataset_facts(name: str) -> dict[str, Any]:
    """Mean, std, classes and image size of a data set, as the manifest's [datasets] has them.

    Raises:
        ValueError: an unknown name.
    """
    tables = _parsed(*_version())[1]
    if name not in tables:
        names = ", ".join(near(name, tables) or [*tables][:6])
        raise ValueError(f"dataset: got {name!r}, wanted for instance {names}")
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in tables[name].items()
    }
