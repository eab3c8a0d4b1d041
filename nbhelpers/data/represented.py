"""Cached representations of data sets."""

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, fx, nn

from nbhelpers.data.images import Source, identity, suited
from nbhelpers.data.sets import ImageSet, choose
from nbhelpers.files import cache_folder, save_tensors
from nbhelpers.networks.model import Model
from nbhelpers.representation import represent
from nbhelpers.types import Features

COMPARED = 8  # images recomputed to verify a cache file
# attributes without effect on the numbers
IGNORED = ("training", "precision", "classes", "note", "name")


def represent_set(
    model: Model,
    source: Source,
    *,
    indices: Iterable[int] | None = None,
    size: int | tuple[int, int] | None = None,
    batch_size: int = 256,
) -> Features:
    """Representations of a data set, (n, components), on the CPU, cached on disk.

    The cache key hashes the network, images and indices; a few images are recomputed to verify it.
    An unwritable cache folder only prints a message.

    Args:
        source, indices, size: as in `load_images`; None for an opened set's size, else the
            network's.
        batch_size: images in memory at a time.

    Raises:
        ValueError, TypeError, IndexError: as in `load_images`.
    """
    images = suited(source, model, size)
    rows = choose(indices, len(images))
    path = _place(model, images, rows)
    if (
        path is not None
        and (kept := _kept(path)) is not None
        and _agrees(model, images, rows, kept)
    ):
        return kept
    features = represent(model, images.batches(rows, batch_size=batch_size))
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(path, {"features": features})
        except OSError as error:
            _tell(
                f"{path.parent} cannot be written ({error.strerror or error}); set NBHELPERS_CACHE "
                "to a folder"
            )
    return features


def _tell(why: str) -> None:
    print(f"representations are not kept: {why}", file=sys.stderr)


def _place(model: Model, images: ImageSet, rows: list[int]) -> Path | None:
    """The cache file, or None without a cache folder."""
    try:
        folder = cache_folder()
    except ValueError as error:
        _tell(str(error))
        return None
    about = (identity(images), images.size, images.channels, torch.__version__, model.device.type)
    key = hashlib.sha256(str(about).encode())
    key.update(torch.tensor(rows, dtype=torch.int64).numpy().tobytes())
    key.update(digest(model))
    return folder / "representations" / f"{key.hexdigest()}.safetensors"


def digest(model: nn.Module) -> bytes:
    """A hash of module types, settings, graphs and tensors, but not of untraced code."""
    key = hashlib.sha256()
    for name, module in model.named_modules():
        plain = {
            setting: value
            for setting, value in sorted(vars(module).items())
            if isinstance(value, bool | int | float | str | tuple) and setting not in IGNORED
        }
        code = module.code if isinstance(module, fx.GraphModule) else ""
        key.update(f"\n{name}: {type(module).__qualname__} {plain} {code}".encode())
        for setting, value in sorted(vars(module).items()):
            if isinstance(value, Tensor):
                _feed(f"{name}.{setting}", value, key)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        _feed(name, tensor, key)
    return key.digest()


def _feed(name: str, tensor: Tensor, key: Any) -> None:
    key.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
    key.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def _kept(path: Path) -> Features | None:
    """The cached representations, or None if missing or unreadable."""
    try:
        return load_file(path)["features"] if path.exists() else None
    except (SafetensorError, KeyError, OSError):  # such as truncated by a full disk
        return None


def _agrees(model: Model, images: ImageSet, rows: list[int], kept: Features) -> bool:
    """Whether recomputed representations of a few images equal the cached ones."""
    if kept.shape != (len(rows), model.components):
        return False
    picked = torch.linspace(0, len(rows) - 1, min(COMPARED, len(rows))).round().long()
    few, _ = images.load([rows[place] for place in picked.tolist()])
    with torch.no_grad():
        fresh = model.representation(few.to(model.device)).cpu()
    # Rounding depends on the batch size, and a GPU may use TF32.
    return bool((fresh - kept[picked]).abs().max() <= 1e-3 * kept[picked].abs().max() + 1e-6)
