"""Parameters that name files: from where their paths count, and whether a checkpoint or a data
set is there.
"""

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
    """A parameter's value with its paths made whole: they count from here, or else from the
    notebook's folder.

    A kernel works in the notebook's folder, so that a path typed here would be looked for there.
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
    # A file still to be written has its folder here already.
    found = here.exists() or (not there.exists() and name not in CHECKS and here.parent.is_dir())
    return str(here) if found else value


def content(name: str, value: Any, notebook: Path) -> str:
    """A digest of the files that a parameter names, checkpoints or data sets; "" where it names
    none.

    Nothing is downloaded.
    """
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
        # it names something else, or whoever opens it tells
        return ""


def check_named(
    values: Mapping[str, Sequence[Any]], own: Mapping[str, Any], notebook: Path
) -> None:
    """Refuse checkpoints and data sets that are not there, before anything is run.

    Args:
        values: parameter → all its values that were asked for, their paths made whole.
        own: the notebook's defaults. A parameter whose default is none of ours names something
            else, and is left alone.
        notebook: in whose folder other relative paths are looked for.

    Raises:
        ValueError: an unknown name, no such file, or a folder that holds no images to be used.
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
        entry(value)  # tells the nearest names
    elif library == "timm":
        import timm

        if network.split(".")[0] not in timm.list_models():
            raise ValueError(f"timm has no network {network!r}")
    else:
        import torchvision.models

        if network not in torchvision.models.list_models(torchvision.models):
            raise ValueError(f"torchvision has no classifier {network!r}")


def _check_dataset(value: str, folder: Path) -> None:
    if value in DOWNLOADED:  # to open them would fetch them
        return
    place = folder / Path(value).expanduser()
    count_images(place if value not in SETS and place.exists() else value)


CHECKS: dict[str, Callable[[str, Path], None]] = {
    **dict.fromkeys(("checkpoint", "checkpoints", "baseline", "baselines"), _check_checkpoint),
    **dict.fromkeys(("dataset", "datasets"), _check_dataset),
}
