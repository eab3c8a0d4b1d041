"""Parameters that name files: resolve paths, check checkpoints and data sets."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nbhelpers.checkpoints.downloads import weights_sha256
from nbhelpers.checkpoints.entries import entry, manifest
from nbhelpers.data.images import SETS, count_images, identity

LIBRARIES = ("torchvision:", "timm:")
DOWNLOADED = ("cifar10-train", "cifar10-test", "tiny-imagenet-train", "tiny-imagenet-val")


def located(name: str, value: Any, notebook: Path) -> Any:
    """A value with absolute paths, relative to here or else to the notebook's folder.

    Needed because the kernel runs in the notebook's folder.
    """
    if isinstance(value, list | tuple):
        return type(value)(located(name, one, notebook) for one in value)
    if (
        not isinstance(value, str)
        or not value
        or value.startswith(LIBRARIES)
        or value in SETS
        or "://" in value
    ):
        return value
    if name in CHECKS:
        if value in manifest():
            return value
    elif "/" not in value and os.sep not in value:
        return value
    here = Path(value).expanduser().absolute()
    there = notebook.parent / value
    # The folder of an output file exists already.
    found = here.exists() or (not there.exists() and name not in CHECKS and here.parent.is_dir())
    return str(here) if found else value


def content(name: str, value: Any, notebook: Path) -> str:
    """A digest of the checkpoints or data sets that a parameter names, or ""; no downloads."""
    if name not in CHECKS:
        return ""
    if isinstance(value, list | tuple):
        return " ".join(content(name, one, notebook) for one in value).strip()
    place = notebook.parent / Path(str(value)).expanduser()
    try:
        if CHECKS[name] is _check_dataset:
            return identity(place) if value not in SETS and place.exists() else ""
        return manifest()[value].sha256 if value in manifest() else weights_sha256(place)
    except (ValueError, OSError, RuntimeError):
        return ""  # names something else; errors show when it is opened


def check_named(
    values: Mapping[str, Sequence[Any]], own: Mapping[str, Any], notebook: Path
) -> None:
    """Refuse missing checkpoints and data sets before any run.

    Args:
        values: parameter → all its given values, with absolute paths.
        own: the notebook's defaults; a parameter is skipped if its default is no valid name.
        notebook: its folder resolves other relative paths.

    Raises:
        ValueError: an unknown name, a missing file, or a folder without usable images.
    """
    for name in [name for name in values if name in CHECKS]:
        try:
            _each(name, [own.get(name)], notebook)
        except (ValueError, OSError, ImportError):
            continue
        try:
            _each(name, values[name], notebook)
        except (ValueError, OSError, ImportError) as error:
            raise ValueError(f"{name}: {error}") from error


def _each(name: str, values: Sequence[Any], notebook: Path) -> None:
    several = [
        one for value in values for one in (value if isinstance(value, list | tuple) else [value])
    ]
    for one in dict.fromkeys(map(str, several)):
        CHECKS[name](one, notebook.parent)


def _check_checkpoint(value: str, folder: Path) -> None:
    if value in manifest() or (folder / Path(value).expanduser()).is_file():
        return
    library, _, network = value.partition(":")
    if f"{library}:" not in LIBRARIES:
        entry(value)  # raises, with similar names
    elif library == "timm":
        import timm

        if network.split(".")[0] not in timm.list_models():
            raise ValueError(f"timm has no network {network!r}")
    else:
        import torchvision.models

        if network not in torchvision.models.list_models(torchvision.models):
            raise ValueError(f"torchvision has no classifier {network!r}")


def _check_dataset(value: str, folder: Path) -> None:
    if value in DOWNLOADED:  # opening would download them
        return
    place = folder / Path(value).expanduser()
    count_images(place if value not in SETS and place.exists() else value)


CHECKS: dict[str, Callable[[str, Path], None]] = {
    **dict.fromkeys(("checkpoint", "checkpoints", "baseline", "baselines"), _check_checkpoint),
    **dict.fromkeys(("dataset", "datasets"), _check_dataset),
}
