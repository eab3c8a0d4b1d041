"""Representations of whole data sets, computed once and kept."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from nbhelpers.data.images import Source, identity, iter_batches
from nbhelpers.files import cache_folder, save_tensors
from nbhelpers.model import Model
from nbhelpers.representation import represent
from nbhelpers.types import Features

PACKAGE = Path(__file__).parents[1]


def represent_set(
    model: Model,
    source: Source,
    *,
    indices: Sequence[int] | None = None,
    size: int | None = None,
    batch_size: int = 256,
) -> Features:
    """Representations of a data set, (n, components), on the CPU; computed once and then read from the cache folder.

    Args:
        model: whose representation.
        source, indices: as in `load_images`.
        size: pixels; None for what the network was trained for.
        batch_size: images in memory at a time.
    """
    key = hashlib.sha256(repr((repr(model), identity(source), indices, size or model.image_size)).encode())
    key.update(torch.__version__.encode())
    # The code that decides the numbers.
    for path in (PACKAGE / "cut.py", PACKAGE / "model.py", *sorted((PACKAGE / "data").glob("*.py"))):
        key.update(path.read_bytes())
    for tensor in {tensor.data_ptr(): tensor for tensor in model.state_dict().values()}.values():
        key.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    path = cache_folder() / "representations" / f"{key.hexdigest()}.safetensors"
    if path.exists():
        try:
            return load_file(path)["features"]
        except SafetensorError:  # cut short by a full disk, for instance
            path.unlink()
    batches = iter_batches(source, batch_size=batch_size, indices=indices, size=size or model.image_size)
    features = represent(model, batches)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, {"features": features})
    return features
