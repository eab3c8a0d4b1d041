"""Folders of the package, and atomic file writes."""

import contextlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # file paths need no torch
    import torch

_PACKAGE = Path(__file__).resolve().parent
# Beside the package in a checkout, inside it in an installed wheel.
_ROOT = (
    _PACKAGE.parent
    if (_PACKAGE.parent / "checkpoints" / "manifest.toml").exists()
    else _PACKAGE / "shipped"
)
CHECKPOINTS = _ROOT / "checkpoints"
DATA = _ROOT / "data"
NOTEBOOKS = _ROOT / "notebooks"


def notebooks() -> list[Path]:
    """The shipped notebooks, in numeric order."""
    return sorted(NOTEBOOKS.glob("[0-9]*_*.ipynb"), key=lambda path: int(path.stem.split("_")[0]))


def cache_folder() -> Path:
    """The cache folder: $NBHELPERS_CACHE, else the platform's.

    Raises:
        ValueError: neither the variable nor a home folder is set.
    """
    try:
        if given := os.environ.get("NBHELPERS_CACHE"):
            return Path(given).expanduser()
        try:
            import platformdirs
        except ImportError:  # a bare PyTorch container, for training
            return Path.home() / ".cache" / "nbhelpers"
        folder = Path(platformdirs.user_cache_dir("nbhelpers"))
        if str(folder).startswith("~"):  # platformdirs ignores a missing home folder
            raise RuntimeError
        return folder
    except RuntimeError:
        raise ValueError(
            "no home folder to keep downloads in; set NBHELPERS_CACHE to a folder"
        ) from None


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Create a folder and try to write in it, before a long computation.

    Raises:
        ValueError: the folder cannot be created or written.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"room for a word")
    except OSError as error:
        raise ValueError(
            f"cannot write to {folder} ({error.strerror or error}); name another folder"
        ) from error


def check_file(path: str | os.PathLike[str]) -> None:
    """Check that a file can be written, without touching it, before a long computation.

    Raises:
        ValueError: the path is a folder, or its folder cannot be created or written.
    """
    target = Path(path)
    if target.is_dir() or not target.name:
        raise ValueError(f"{path} is a folder; name a file in it, such as {target / 'result'}")
    check_writable(target.parent)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Replace a file atomically: a temporary path, moved to `path` if the block succeeds.

    Args:
        path: the file; its folder must exist.

    Raises:
        OSError: the folder cannot be written, or the disk is full. `path` is unchanged.
    """
    target = Path(path)
    # Hidden from searches for data files, and unique to each writer.
    temporary = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex[:8]}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 file atomically; errors as in `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_tensors(
    path: str | os.PathLike[str],
    tensors: "Mapping[str, torch.Tensor]",
    note: Mapping[str, Any] | None = None,
) -> None:
    """Write a safetensors file atomically.

    Args:
        tensors: name → tensor, on any device.
        note: JSON metadata, stored under "nbhelpers".

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    import safetensors.torch

    # One metadata key: safetensors orders several at random, and files must be reproducible.
    metadata = None if note is None else {"nbhelpers": json.dumps(note, sort_keys=True)}
    own = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            safetensors.torch.save_file(own, temporary, metadata)
        except safetensors.SafetensorError as error:  # such as a full disk
            raise OSError(f"cannot write {path}: {error}") from error
        temporary.chmod(0o644)  # safetensors writes 0o600; a cache may be shared
