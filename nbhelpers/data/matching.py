"""A data set's classes as a network's: one function, by name."""

from collections import Counter
from collections.abc import Sequence

import torch

from nbhelpers.checkpoints.entries import imagenet_classes
from nbhelpers.data.imagenet import CIFAR10_OF_IMAGENET, RESTRICTED_IMAGENET

_GROUPS = (CIFAR10_OF_IMAGENET, {name: (ends,) for name, ends in RESTRICTED_IMAGENET.items()})


def class_places(names: Sequence[str], classes: Sequence[str]) -> torch.Tensor:
    """For each of a data set's classes its place among a network's, int64 (len(names),); -1 where
    it is none of them.

    Equal names are one class; case counts, for ImageNet has a dog named Cardigan and a cardigan.
    ImageNet's classes, and those of a part of it, also fall into the groups of Restricted ImageNet
    and into CIFAR-10's classes.
    """
    if tuple(names) == tuple(classes):
        return torch.arange(len(names))
    count = Counter(classes)
    place = {name: i for i, name in enumerate(classes) if count[name] == 1}
    for groups in _GROUPS:
        if {*groups} == {*classes}:
            known = imagenet_classes()
            ends = [(place[group], *pair) for group, pairs in groups.items() for pair in pairs]
            place |= {name: i for i, first, last in ends for name in known[first : last + 1]}
    return torch.tensor([place.get(name, -1) for name in names], dtype=torch.int64)
