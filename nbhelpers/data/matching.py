"""Match a data set's classes to a network's, by name."""

import functools
import re
import unicodedata
from collections.abc import Sequence

import torch

from nbhelpers.checkpoints.entries import imagenet_classes
from nbhelpers.data.imagenet import CIFAR10_OF_IMAGENET, RESTRICTED_IMAGENET
from nbhelpers.types import Labels

GROUPS = (CIFAR10_OF_IMAGENET, {name: (ends,) for name, ends in RESTRICTED_IMAGENET.items()})
# Synonyms in CIFAR-10, STL-10, PASCAL, COCO and ImageNet's class lists.
ALIASES = (
    ("airplane", "aeroplane", "plane"),
    ("automobile", "car", "motorcar", "auto"),
    ("bicycle", "bike"),
    ("cell phone", "mobile phone", "cellular telephone", "cellular phone", "mobile"),
    ("motorcycle", "motorbike"),
    ("sofa", "couch"),
    ("television", "tv"),
    ("truck", "lorry"),
    ("beach wagon", "station wagon"),
    ("cab", "taxi", "taxicab"),
    ("cock", "rooster"),
    ("killer whale", "orca"),
    ("ladybug", "ladybird", "ladybeetle"),
    ("lesser panda", "red panda"),
    ("monarch", "monarch butterfly"),
    ("puffer", "pufferfish", "blowfish"),
    ("tabby", "tabby cat"),
    ("t shirt top", "t shirt", "tshirt"),
)
# Two classes of ImageNet that differ in a capital alone: a dog and a garment.
BY_CASE = {"Cardigan", "cardigan"}
PLURALS = ((r"(?<=[^s])s$", ""), (r"(?<=[hsxz])es$", ""), (r"ies$", "y"), (r"ves$", "f"))
SYNSET = re.compile(r"n\d{8}")
NUMBER = re.compile(r"(?:(?:class|label)[ _-]?)?([0-9]+)", re.IGNORECASE)  # "7", "class_7"
# "0 - zero" of MNIST, "001.Black_footed_Albatross" of CUB-200, "03_bird".
NUMBERED = re.compile(r"([0-9]+)[\W_]+([^\W\d_].*)")


def class_places(names: Sequence[str], classes: Sequence[str]) -> Labels:
    """Each data-set class's index among a network's classes, int64 (len(names),); -1 for no match.

    Rules, in order:

    - Equal names match, in any order.
    - Then names that differ in case, spaces or punctuation; known aliases (car, automobile);
      ImageNet's synonyms ("tench, Tinca tinca"); plurals.
    - Bare numbers match bare numbers.
    - A number before every name ("0 - zero", "001.Albatross") is ignored if nothing else matches,
      and is the name if the other side has bare numbers.
    - WordNet ids (n01440764) are ImageNet's names.
    - ImageNet classes also match the groups of Restricted ImageNet and CIFAR-10's classes.
    """
    names, classes = tuple(names), tuple(classes)
    if names == classes:
        return torch.arange(len(names))
    if names and are_numbers(names) and are_numbers(classes):
        return _by_number(names, classes)
    if (found := _by_number_before(names, classes)) is not None:
        return found
    names, classes = _spelled_out(names), _spelled_out(classes)
    found = _by_name(names, classes)
    if not bool((found >= 0).any()):
        names, classes = _unnumbered(names), _unnumbered(classes)
        found = _by_name(names, classes)
    if (group := _groups_of(classes)) is not None:
        within = group[class_places(names, imagenet_classes())]
        found = torch.where(found < 0, within, found)
    return _completed(found, len(classes))


def are_numbers(names: Sequence[str]) -> bool:
    """Whether all classes are bare numbers."""
    return all(map(NUMBER.fullmatch, names))


def _by_number(names: tuple[str, ...], classes: tuple[str, ...]) -> Labels:
    """No match at all if any number is unknown to the network: it may count from one."""
    place = {_number(name): i for i, name in enumerate(classes)}
    found = [place.get(_number(name), -1) for name in names]
    return torch.tensor(found if min(found) >= 0 else [-1] * len(names))


def _number(name: str) -> int:
    found = NUMBER.fullmatch(name) or NUMBERED.fullmatch(name)
    assert found is not None
    return int(found[1])


def _by_number_before(names: tuple[str, ...], classes: tuple[str, ...]) -> Labels | None:
    """One side has bare numbers, the other the same numbers before its names."""
    for bare, named in ((names, classes), (classes, names)):
        if bare and named and are_numbers(bare) and all(map(NUMBERED.fullmatch, named)):
            numbers = [sorted(map(_number, side)) for side in (bare, named)]
            if numbers[0] == numbers[1] and len({*numbers[0]}) == len(bare):
                return _by_number(names, classes)
    return None


def _unnumbered(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names without their numbers, if all numbers differ."""
    found = [NUMBERED.fullmatch(name) for name in names]
    pairs = [(int(one[1]), one[2]) for one in found if one]
    different = len({number for number, _ in pairs}) == len(names)
    return tuple(name for _, name in pairs) if pairs and different else names


def _by_name(names: tuple[str, ...], classes: tuple[str, ...]) -> Labels:
    """Equal names first; a looser match must be unique and not taken by a closer one."""
    found, taken = [-1] * len(names), set[int]()
    tool = "plane" if "airliner" in names else ""  # ImageNet's plane is the tool
    for keys in (_exactly, _plain, _synonyms, _singular):
        places: dict[str, set[int]] = {}
        for place, name in enumerate(classes):
            for key in keys(name):
                places.setdefault(key, set()).add(place)
        for i, name in enumerate(names):
            fits = {place for key in keys(name) for place in places.get(key, ())} - taken
            if found[i] < 0 and len(fits) == 1 and (name != tool or keys is _exactly):
                (found[i],) = fits
        taken = {place for place in found if place >= 0}
    return torch.tensor(found, dtype=torch.int64)


def _exactly(name: str) -> set[str]:
    return {name}


def _plain(name: str) -> set[str]:
    return {_joined(name)}


def _joined(name: str) -> str:
    """Without case, spaces and punctuation."""
    name = unicodedata.normalize("NFKC", name).strip()  # macOS separates accents in folder names
    return name if name in BY_CASE else re.sub(r"[\W_]+", "", name.casefold())


def _synonyms(name: str) -> set[str]:
    """Every comma-separated name, and its aliases."""
    parts = {_joined(name), *map(_joined, name.split(","))}
    return {_canonical().get(part, part) for part in parts} - {""}


def _singular(name: str) -> set[str]:
    given = _synonyms(name)
    single = {re.sub(many, one, key) for key in given for many, one in PLURALS}
    return {_canonical().get(key, key) for key in given | single}


@functools.cache
def _canonical() -> dict[str, str]:
    return {_joined(name): _joined(group[0]) for group in ALIASES for name in group}


def _spelled_out(names: tuple[str, ...]) -> tuple[str, ...]:
    """ImageNet's names for WordNet ids, all 1,000 or a subset that timm lists."""
    if not names or not all(map(SYNSET.fullmatch, names)):
        return names
    if len(names) == 1000 and names == tuple(sorted(names)):
        return imagenet_classes()
    try:
        from timm.data import ImageNetInfo
    except ImportError:
        return names
    known = dict(zip(ImageNetInfo().label_names(), imagenet_classes(), strict=True))
    return tuple(known.get(name, name) for name in names)


def _groups_of(classes: tuple[str, ...]) -> Labels | None:
    """Each ImageNet class's index among classes that are groups of them, then -1; (1001,)."""
    for groups in GROUPS:
        if (places := _places_of_groups(tuple(groups), classes)) is not None:
            group = torch.full((1001,), -1)
            for (_, pairs), place in zip(groups.items(), places, strict=True):
                for first, last in pairs:
                    group[first : last + 1] = place
            return group
    return None


def _places_of_groups(groups: tuple[str, ...], classes: tuple[str, ...]) -> list[int] | None:
    """The groups' indices among the classes, if the classes are exactly the groups."""
    if len(groups) != len(classes):
        return None
    places = _by_name(groups, classes).tolist()
    return places if sorted(places) == list(range(len(classes))) else None


def _completed(found: Labels, count: int) -> Labels:
    """For ImageNet's 1,000 classes on both sides: unmatched spellings match by position if the
    matched ones do.
    """
    own = torch.arange(len(found))
    in_place, elsewhere = (found == own).sum(), ((found >= 0) & (found != own)).sum()
    if len(found) == count == 1000 and in_place >= 500 and elsewhere <= 10:
        return own
    return found
