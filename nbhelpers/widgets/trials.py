"""The plan of a forced-choice test: pictures, conditions and names."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nbhelpers.data.sets import NAMELESS
from nbhelpers.types import Images

CATCH = 0.1  # smallest share of catch trials


@dataclass(frozen=True)
class Condition:
    """A layer of a network; empty for a catch trial, an untouched original."""

    network: str = ""  # label
    layer: str = ""  # name
    depth: int = 0  # number of the layer, from 1


@dataclass(frozen=True)
class Trial:
    """A picture and its names."""

    image: int  # index
    condition: Condition
    choices: tuple[str, ...]  # sorted
    right: int  # index of the correct name


def plan_trials(
    names: Sequence[str],
    colours: Tensor,
    conditions: Sequence[Condition],
    *,
    trials: int = 40,
    choices: int = 10,
    seed: int = 0,
) -> list[Trial]:
    """A session of distinct images, balanced conditions and names of similar colour.

    Each round has every condition once, in random order, and catch trials, at least a tenth; the
    first trial is a catch trial. Wrong names are drawn from twice as many with the nearest mean
    colours.

    Args:
        names: of each image, (n,); images without a name are skipped.
        colours: mean colour of each image, (n, channels).
        conditions: to compare.
        trials: in a session.
        choices: names in each trial, 2 to 10.
        seed: of the whole plan.

    Raises:
        ValueError: fewer named images than trials, not more trials than conditions, a single name,
            or `choices` outside 2 to 10.
    """
    usable = [k for k, name in enumerate(names) if name not in ("", NAMELESS)]
    if len(usable) < trials:
        raise ValueError(
            f"images: {len(usable)} have a name, {trials} trials need as many; give more images, "
            f"or trials={len(usable)}"
        )
    if trials <= len(conditions):
        raise ValueError(
            f"trials: got {trials}, wanted more than {len(conditions)}, the conditions"
        )
    if not 2 <= choices <= 10 or len({names[k] for k in usable}) < 2:
        raise ValueError(f"choices: got {choices}, wanted 2 to 10 of at least two names")
    chance = random.Random(seed)
    pictures = chance.sample(usable, trials)
    plan = []
    for image, condition in zip(pictures, _order(conditions, trials, chance), strict=True):
        wrong = _alike(image, names, colours, usable)[: 2 * (choices - 1)]
        drawn = chance.sample(wrong, min(choices - 1, len(wrong)))
        offered = sorted([names[image], *drawn], key=str.lower)
        plan.append(Trial(image, condition, tuple(offered), offered.index(names[image])))
    return plan


def mean_colours(images: Images) -> Tensor:
    """The mean colour of each image, (n, channels)."""
    return images.mean((2, 3)).cpu()


def _order(conditions: Sequence[Condition], trials: int, chance: random.Random) -> list[Condition]:
    """Rounds of every condition and a share of the catch trials."""
    rounds = int(trials * (1 - CATCH)) // len(conditions) if conditions else 0
    rounds = max(1, rounds)
    caught = trials - rounds * len(conditions)
    order: list[Condition] = []
    for k in range(rounds):
        share = caught * (k + 1) // rounds - caught * k // rounds
        some = [*conditions, *[Condition()] * share]
        chance.shuffle(some)
        order += some
    first = order.index(Condition())
    order[0], order[first] = order[first], order[0]
    return order


def _alike(image: int, names: Sequence[str], colours: Tensor, usable: Sequence[int]) -> list[str]:
    """The other names, sorted by distance in mean colour."""
    far = torch.linalg.vector_norm(colours - colours[image], dim=1)
    near = sorted(usable, key=lambda k: far[k].item())
    return list(dict.fromkeys(names[k] for k in near if names[k] != names[image]))
