"""Image folders: one folder per class, or all images in one."""

import functools
import os
import re
import sys
from pathlib import Path

import PIL.Image
import torch

from nbhelpers.data.decoding import decode
from nbhelpers.data.sets import ImageSet

# Formats that Pillow lists but cannot read without other programs.
UNREADABLE = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
# Files ignored silently; all other non-images are reported.
NOTES = {"", ".cfg", ".csv", ".htm", ".html", ".ini", ".ipynb", ".json", ".log", ".md", ".py"}
NOTES |= {".rst", ".sh", ".toml", ".tsv", ".txt", ".xml", ".yaml", ".yml"}
NOTES_WITHOUT_ENDING = re.compile(r"(readme|licen[cs]e|copying|notice|authors|makefile)", re.I)
# Names that differ only in these words are splits: seg_train and seg_test, trainA and testA.
SPLIT_WORD = re.compile(r"train(ing)?|val(id(ate|ation)?)?|test(ing)?")
ANNOTATIONS = re.compile(
    r"(.*[-_ ])?(masks?|labels?|annot(ation)?s?|ground[-_ ]?truths?|gt|seg(mentation)?s?|edges?)"
)
IMAGES = re.compile(r"(jpeg|input|raw)?[-_ ]?(images?|imgs?|photos?|pictures?|inputs?)")
SPLIT = re.compile(
    r"(train(ing)?|val(id(ate|ation)?)?|dev|eval(uation)?|test(ing)?|hold[-_ ]?out)([-_ "
    r"]?(set|data|images|\d+))*"
    r"|(fold|split)[-_ ]?\d+"
)
# Leftovers of systems, storage boxes and archives, ignored as dot files are.
LEFTOVERS = {
    "@eadir",
    "@recycle",
    "@tmp",
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "__macosx",
    "__pycache__",
}
LEFTOVERS |= {
    "lost+found",
    "system volume information",
    "thumbs",
    "thumbs.db",
    "thumbnails",
    "desktop.ini",
}


def open_folder(folder: Path) -> ImageSet:
    """The images of a folder, unlabelled, or of one folder per class, labelled in name order.

    Empty class folders count, so partial copies of a data set keep its labels. Folders of notes
    only are no classes. Unreadable files are listed on standard error.

    Raises:
        ValueError: no image; images beside class folders; a folder of splits; a parent of the class
            folders' folder.
    """
    here, places = _files_and_folders(folder)
    loose = [path for path in here if _is_image(path)]
    found = {
        place: [path for path in inside if _is_image(path)] for place, inside in places.items()
    }
    full = [place for place, images in found.items() if images]
    if not loose and places and all(map(_is_split, places)):
        raise ValueError(
            f"{folder} contains {', '.join(place.name for place in places)}; give one of them"
        )
    if not loose and not full:
        other = _others([*here, *(path for inside in places.values() for path in inside)])
        raise ValueError(
            f"no image in {folder}{f', but {other}' if other else ''}; wanted files that Pillow "
            "reads, such as .png, .jpg or .webp"
        )
    if loose and full:
        raise ValueError(
            f"{folder} contains images ({_some(loose)}) and folders of images ({_some(full)}); "
            "move one kind elsewhere, or give a single folder"
        )
    if loose:
        _name_left_out(folder, here)
        return ImageSet(
            lambda i: decode(loose[i], transparency=True),
            torch.full((len(loose),), -1),
            (),
            tuple(loose),
        )
    _check_level(folder, full)
    for place, inside in places.items():
        if not found[place] and (other := _others(inside)):
            raise ValueError(
                f"{place}: no image that can be read ({other}); convert them to .png or .jpg, or "
                "move the folder elsewhere"
            )
    _name_left_out(folder, [*here, *(path for inside in places.values() for path in inside)])
    classes = [place for place, inside in places.items() if found[place] or not inside]
    files = tuple(path for place in classes for path in found[place])
    labels = [label for label, place in enumerate(classes) for _ in found[place]]
    return ImageSet(
        lambda i: decode(files[i], transparency=True),
        torch.tensor(labels),
        tuple(c.name for c in classes),
        files,
    )


def _check_level(folder: Path, full: list[Path]) -> None:
    """Refuse splits of a data set, and folders of class folders."""
    splits = [place for place in full if _is_split(place)]
    if splits == full or len(splits) > 1 or any(len(_branches(place)) > 1 for place in splits):
        raise ValueError(
            f"{folder} contains {', '.join(place.name for place in splits)}; give one of them"
        )
    parts = _parts_of_one_name(full)
    if parts:
        raise ValueError(f"{folder} contains {_some(parts)}; give one of them")
    drawn = [place for place in full if ANNOTATIONS.fullmatch(place.name.lower())]
    rest = [place for place in full if place not in drawn]
    if drawn and len(rest) == 1 and IMAGES.fullmatch(rest[0].name.lower()):
        raise ValueError(
            f"{folder} mixes images ({rest[0].name}) and annotations ({_some(drawn)}); "
            f"give {rest[0]}"
        )
    inner, name = _branches(full[0]), full[0].name
    if len(inner) < 2 and len(full) == 1 and IMAGES.fullmatch(name.lower()):
        raise ValueError(
            f"{folder} contains one folder of images, {name}, which is not a class; give {full[0]}"
        )
    if len(inner) < 2:
        return
    names = _some(list(inner.values()))
    if len(full) == 1:
        raise ValueError(
            f"{folder} contains one folder, {full[0].name}, with subfolders ({names}); if they "
            f"are the classes, give {next(iter(inner.values())).parent}"
        )
    shared = sorted(set(inner).intersection(*map(_branches, full)))
    if len(shared) > 1:
        raise ValueError(
            f"{folder}: each of its folders ({_some(full)}) contains the same folders "
            f"({', '.join(shared[:3])}); if these are the classes, give {full[0]} or another"
        )


def _parts_of_one_name(places: list[Path]) -> list[Path]:
    """Folders whose names differ only in a split's word."""
    alike: dict[str, dict[str, Path]] = {}
    for place in places:
        name = place.name.lower()
        if word := SPLIT_WORD.search(name):
            alike.setdefault(SPLIT_WORD.sub("…", name, count=1), {})[word[0]] = place
    return [place for group in alike.values() if len(group) > 1 for place in group.values()]


def _is_split(place: Path) -> bool:
    return SPLIT.fullmatch(place.name.lower()) is not None


def _branches(place: Path) -> dict[str, Path]:
    """The topmost subfolders with images, if several, and without images beside them."""
    while True:
        if any(_is_image(path) and path.is_file() for path in _inside(place)):
            return {}
        inner = [
            path for path in _inside(place) if path.is_dir() and any(map(_is_image, _walk(path)))
        ]
        if len(inner) != 1:
            return {path.name: path for path in sorted(inner)}
        place = inner[0]


def _files_and_folders(folder: Path) -> tuple[list[Path], dict[Path, list[Path]]]:
    """A folder's files, and all files below each of its subfolders, sorted."""
    inside = sorted(_inside(folder))
    folders = [path for path in inside if path.is_dir()]
    return [path for path in inside if path not in folders], {p: _walk(p) for p in folders}


def _inside(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not _is_leftover(path.name)]


def _walk(folder: Path) -> list[Path]:
    """The files below a folder, sorted by path."""
    found, above = [], set()
    for place, folders, files in os.walk(folder, followlinks=True):
        above.add(os.path.realpath(place))
        # Skip links to visited folders, which form cycles.
        folders[:] = [
            n
            for n in folders
            if not _is_leftover(n) and os.path.realpath(Path(place, n)) not in above
        ]
        found += [Path(place, name) for name in files if not _is_leftover(name)]
    return sorted(found)


def _is_leftover(name: str) -> bool:
    return name.startswith(".") or name.lower() in LEFTOVERS


@functools.cache
def endings() -> frozenset[str]:
    """The file suffixes that Pillow reads."""
    PIL.Image.init()
    known = PIL.Image.registered_extensions().items()
    return frozenset(
        ending for ending, kind in known if kind in PIL.Image.OPEN and kind not in UNREADABLE
    )


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in endings()


def _name_left_out(folder: Path, paths: list[Path]) -> None:
    if other := _others(paths):
        print(f"{folder}: {other} left out: Pillow cannot read them", file=sys.stderr)


def _others(paths: list[Path]) -> str:
    """Counts of files that are neither readable images nor notes, by suffix; "" if none."""
    left: dict[str, list[Path]] = {}
    for path in paths:
        ending = path.suffix.lower()
        note = ending in NOTES and (ending or NOTES_WITHOUT_ENDING.match(path.name))
        if not note and not _is_image(path):
            left.setdefault(ending, []).append(path)
    return ", ".join(
        f"{len(some)} {ending or 'without ending'} ({some[0].name}{', …' * (len(some) > 1)})"
        for ending, some in sorted(left.items())
    )


def _some(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths[:3]) + (", …" if len(paths) > 3 else "")
