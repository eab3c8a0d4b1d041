"""Representations of whole data sets, computed once and kept."""

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, fx, nn

from nbhelpers.data.images import Source, choose, count_images, identity, iter_batches, load_images
from nbhelpers.files import cache_folder, save_tensors
from nbhelpers.networks.model import Model
from nbhelpers.representation import represent
from nbhelpers.types import Features

PACKAGE = Path(__file__).parents[1]
COMPARED = 8  # images whose representation is computed anew before kept ones are believed


def represent_set(
    model: Model,
    source: Source,
    *,
    indices: Iterable[int] | None = None,
    size: int | tuple[int, int] | None = None,
    batch_size: int = 256,
) -> Features:
    """Representations of a data set, (n, components), on the CPU; computed once and then read from
    the cache folder.

    Kept ones are found by the network's function and weights, the images and the indices. A few of
    them are computed again and compared before they are used. A cache folder that cannot be written
    costs a message, not the result.

    Args:
        model: whose representation.
        source, indices, size: as in `load_images`; a `size` of None is what the network was trained
            for.
        batch_size: images in memory at a time.

    Raises:
        ValueError, TypeError, IndexError: as in `load_images`.
    """
    size = size or model.image_size
    chosen = None if indices is None else choose(indices, count_images(source))
    path = _place(model, source, chosen, size)
    if (
        path is not None
        and (kept := _kept(path)) is not None
        and _agrees(model, source, chosen, size, kept)
    ):
        return kept
    features = represent(
        model,
        iter_batches(
            source, batch_size=batch_size, indices=chosen, size=size, channels=model.channels
        ),
    )
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


def _place(
    model: Model, source: Source, chosen: list[int] | None, size: int | tuple[int, int] | None
) -> Path | None:
    """The file for these representations; None where there is no cache folder."""
    try:
        folder = cache_folder()
    except ValueError as error:
        _tell(str(error))
        return None
    key = hashlib.sha256(
        f"{identity(source)} {size} {torch.__version__} {model.device.type}".encode()
    )
    key.update(
        b"all" if chosen is None else torch.tensor(chosen, dtype=torch.int64).numpy().tobytes()
    )
    for path in (
        *(PACKAGE / f"{name}.py" for name in ("sites", "cut", "model")),
        *sorted((PACKAGE / "data").glob("*.py")),
    ):
        key.update(path.read_bytes())  # what decides the numbers besides the network
    key.update(digest(model))
    return folder / "representations" / f"{key.hexdigest()}.safetensors"


def digest(model: nn.Module) -> bytes:
    """A hash of all that a pass depends on: modules, their settings, graphs and tensors."""
    key = hashlib.sha256()
    for name, module in model.named_modules():
        key.update(f"\n{name}: {type(module).__module__}.{type(module).__qualname__}".encode())
        if isinstance(module, fx.GraphModule):
            key.update(f"{module.graph}{module.code}".encode())
        else:
            key.update(_code(type(module).forward))
        for setting, value in sorted(vars(module).items()):
            if setting.startswith("_") and not isinstance(value, bool | int | float | str | tuple):
                continue  # torch's own registers
            if isinstance(value, Tensor):
                _feed(setting, value, key)
            elif setting not in ("training", "precision", "classes", "note", "name"):
                # these change no number
                key.update(f"{setting}={_stable(value)}".encode())
    seen: dict[int, str] = {}
    for name, tensor in [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]:
        first = seen.setdefault(id(tensor), name)  # the graphs of a cut share their weights
        key.update(f"\n{name} is {first}".encode())
        if first == name:
            _feed(name, tensor, key)
    return key.digest()


def _feed(name: str, tensor: Tensor, key: Any) -> None:
    key.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
    key.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def _stable(value: Any) -> str:
    """A value as text that is the same in every process: no address in it."""
    if value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.device):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_stable(k)}: {_stable(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple | set | frozenset):
        texts = [_stable(one) for one in value]
        return f"[{', '.join(texts if isinstance(value, list | tuple) else sorted(texts))}]"
    called = getattr(value, "__qualname__", type(value).__qualname__)
    name = f"{getattr(value, '__module__', '')}.{called}"
    return name + _code(value).hex()


def _code(function: Any) -> bytes:
    """A function's own instructions and constants: two classes of one name may differ in them."""
    code = getattr(function, "__code__", None)
    if code is None:
        return b""
    constants = [
        c for c in code.co_consts if c is None or isinstance(c, bool | int | float | str | tuple)
    ]
    return code.co_code + f"{constants} {code.co_names}".encode()


def _kept(path: Path) -> Features | None:
    """What an earlier call has left; a file that cannot be read is as good as none."""
    try:
        return load_file(path)["features"] if path.exists() else None
    except (SafetensorError, KeyError, OSError):  # cut short by a full disk, for instance
        return None


def _agrees(
    model: Model,
    source: Source,
    chosen: list[int] | None,
    size: int | tuple[int, int] | None,
    kept: Features,
) -> bool:
    """Whether representations computed now are the kept ones, for a few images spread over the
    set.
    """
    rows = list(range(count_images(source))) if chosen is None else chosen
    if kept.shape != (len(rows), model.components):
        return False
    picked = torch.linspace(0, len(rows) - 1, min(COMPARED, len(rows))).round().long()
    chosen = [rows[place] for place in picked.tolist()]
    images, _ = load_images(source, indices=chosen, size=size, channels=model.channels)
    with torch.no_grad():
        fresh = model.representation(images.to(model.device)).cpu()
    # Batches of another length round differently, and a GPU may do so in TF32.
    return bool((fresh - kept[picked]).abs().max() <= 1e-3 * kept[picked].abs().max() + 1e-6)
