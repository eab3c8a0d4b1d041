"""The user's copies of ImageNet, Restricted ImageNet and Tiny ImageNet."""

import os
import re
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import torch

from nbhelpers.checkpoints.downloads import download
from nbhelpers.checkpoints.entries import imagenet_classes
from nbhelpers.data.decoding import decode
from nbhelpers.data.folders import open_folder
from nbhelpers.data.sets import ImageSet
from nbhelpers.files import cache_folder, check_writable

# The nine groups of Engstrom et al., arXiv:1906.00945: inclusive ranges of ImageNet's classes.
RESTRICTED_IMAGENET = {
    "dog": (151, 268),
    "cat": (281, 285),
    "frog": (30, 32),
    "turtle": (33, 37),
    "bird": (80, 100),
}
RESTRICTED_IMAGENET |= {
    "primate": (365, 382),
    "fish": (389, 397),
    "crab": (118, 121),
    "insect": (300, 319),
}
# ImageNet's classes below CIFAR-10's in WordNet, as inclusive ranges. None is a deer (gazelles are
# not); by CIFAR-10's own rule pickup trucks are neither automobiles nor trucks.
CIFAR10_OF_IMAGENET = {
    "airplane": ((404, 404), (895, 895)),
    "bird": ((7, 24), (80, 100), (127, 146)),
}
CIFAR10_OF_IMAGENET |= {
    "automobile": ((407, 407), (436, 436), (468, 468), (511, 511), (609, 609), (627, 627))
}
CIFAR10_OF_IMAGENET["automobile"] += ((656, 656), (661, 661), (751, 751), (817, 817))
CIFAR10_OF_IMAGENET |= {"cat": ((281, 285),), "deer": (), "dog": ((151, 268),), "frog": ((30, 32),)}
CIFAR10_OF_IMAGENET |= {
    "horse": ((339, 339),),
    "ship": ((403, 403), (510, 510), (628, 628), (724, 724), (913, 913)),
}
CIFAR10_OF_IMAGENET |= {"truck": ((555, 555), (569, 569), (675, 675), (864, 864), (867, 867))}
TINY_IMAGENET_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"


def open_imagenet(split: str) -> ImageSet:
    root = os.environ.get("IMAGENET")
    if not root or not (folder := Path(root).expanduser() / split).is_dir():
        raise FileNotFoundError(
            f"ImageNet is not here: set IMAGENET to the folder that contains {split}/ with its "
            f"1,000 folders n01440764, n01443537, …{f' (no {split} in {root})' if root else ''}"
        )
    images = open_folder(folder)
    if len(images.classes) != 1000 or not all(
        re.fullmatch(r"n\d{8}", name) for name in images.classes
    ):
        raise ValueError(
            f"{folder}: {len(images.classes)} class folders, wanted ImageNet's 1,000, by whose "
            "order labels are counted; for a part, keep the other folders empty"
        )
    return replace(images, classes=imagenet_classes(), margin=256 / 224)


def open_restricted_imagenet(split: str) -> ImageSet:
    images = open_imagenet(split)
    group = torch.full((1000,), -1)
    for label, (first, last) in enumerate(RESTRICTED_IMAGENET.values()):
        group[first : last + 1] = label
    rows = (group[images.labels] >= 0).nonzero()[:, 0].tolist()
    files = tuple(images.files[row] for row in rows)
    return replace(
        images,
        read=lambda i: decode(files[i]),
        labels=group[images.labels[rows]],
        classes=tuple(RESTRICTED_IMAGENET),
        files=files,
        captions=tuple(images.names[row] for row in rows),
    )


def open_tiny_imagenet(split: str) -> ImageSet:
    """Tiny ImageNet in its official layout, zipped or unpacked, possibly in part."""
    given = os.environ.get("TINY_IMAGENET")
    place = Path(given).expanduser() if given else cache_folder() / "tiny-imagenet-200.zip"
    if not place.exists():
        if given:
            raise FileNotFoundError(
                f"TINY_IMAGENET: {place} is not there; name the zip, or its unpacked folder"
            )
        check_writable(place.parent)
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
            with reading:  # threads share the ZipFile
                return archive.read(f"tiny-imagenet-200/{name}")

    try:
        words = dict(line.split("\t", 1) for line in content("words.txt").decode().splitlines())
        classes = sorted(content("wnids.txt").decode().split())
        notes = content("val/val_annotations.txt").decode().splitlines()
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{place}: not Tiny ImageNet in its official layout ({error})") from error
    number = {name: label for label, name in enumerate(classes)}
    if split == "train":
        found = [
            name
            for name in sorted(names)
            if name.startswith("train/") and name.lower().endswith(".jpeg")
        ]
        kinds = [name.split("/")[1] for name in found]
    else:
        there = set(names)
        rows = [line.split("\t")[:2] for line in notes]
        kept = [
            (f"val/images/{name}", kind) for name, kind in rows if f"val/images/{name}" in there
        ]
        found, kinds = [name for name, _ in kept], [kind for _, kind in kept]
    if not found:
        raise ValueError(f"{place}: no {split} image of Tiny ImageNet in it")
    return ImageSet(
        lambda i: decode(found[i], content(found[i])),
        torch.tensor([number[kind] for kind in kinds]),
        tuple(words[name].split(",")[0].strip() for name in classes),
        (place,) if place.is_file() else tuple(place / name for name in found),
    )
