"""Where things are kept, and how a file is replaced whole."""

import contextlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # whoever only looks for a file does without torch
    import torch

_PACKAGE = Path(__file__).resolve().parent
# A checkout holds these beside the package, an installed wheel inside it.
_ROOT = (
    _PACKAGE.parent
    if (_PACKAGE.parent / "checkpoints" / "manifest.toml").exists()
    else _PACKAGE / "shipped"
)
CHECKPOINTS = _ROOT / "checkpoints"
DATA = _ROOT / "data"
NOTEBOOKS = _ROOT / "notebooks"


def notebooks() -> list[Path]:
    """The notebooks that ship, in the order of their numbers."""
    return sorted(NOTEBOOKS.glob("[0-9]*_*.ipynb"), key=lambda path: int(path.stem.split("_")[0]))


def cache_folder() -> Path:
    """Where downloads and results to be used again go: $NBHELPERS_CACHE, else the platform's cache
    folder.

    Raises:
        ValueError: neither the variable nor a home folder is there.
    """
    try:
        if given := os.environ.get("NBHELPERS_CACHE"):
            return Path(given).expanduser()
        try:
            import platformdirs
        except ImportError:  # a bare PyTorch image, where networks are trained
            return Path.home() / ".cache" / "nbhelpers"
        folder = Path(platformdirs.user_cache_dir("nbhelpers"))
        if str(folder).startswith("~"):  # platformdirs does not notice that there is no home
            raise RuntimeError
        return folder
    except RuntimeError:
        raise ValueError(
            "no home folder to keep downloads in; set NBHELPERS_CACHE to a folder"
        ) from None


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Make a folder and write there for a try, before hours are spent on what goes into it.

    Raises:
        ValueError: it cannot be made, or not be written.
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
    """Make a file's folder and see that the file could be written, before hours are spent on what
    goes into it. The file itself stays as it is.

    Raises:
        ValueError: the path is a folder, or its folder cannot be made or written.
    """
    target = Path(path)
    if target.is_dir() or not target.name:
        raise ValueError(f"{path} is a folder; name a file in it, such as {target / 'result'}")
    check_writable(target.parent)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file whole or not at all: a temporary path to write to, moved to `path` where all
    went well.

    Args:
        path: of the file; its folder must exist.

    Raises:
        OSError: the folder cannot be written, or the disk is full. Nothing is left behind, `path`
            is as before.
    """
    target = Path(path)
    # Named like none of the files that a folder is searched for, and differently for every writer.
    temporary = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex[:8]}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, whole or not at all; errors as in `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_tensors(
    path: str | os.PathLike[str],
    tensors: "Mapping[str, torch.Tensor]",
    note: Mapping[str, Any] | None = None,
) -> None:
    """Write tensors as safetensors, whole or not at all.

    Args:
        path: of the file.
        tensors: by name, on any device.
        note: JSON to be kept in the file, under "nbhelpers".

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    import safetensors.torch  # here: whoever only reads pictures does without

    # A single metadata key: safetensors orders several at random, and equal tensors should give
    # equal files.
    metadata = None if note is None else {"nbhelpers": json.dumps(note, sort_keys=True)}
    own = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            safetensors.torch.save_file(own, temporary, metadata)
        except safetensors.SafetensorError as error:  # as it calls a full disk
            raise OSError(f"cannot write {path}: {error}") from error
        temporary.chmod(0o644)  # safetensors writes for the owner alone; a cache may be shared
