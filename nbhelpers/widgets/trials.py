"""The plan of a forced choice: which picture, in which condition, among which names."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nbhelpers.data.sets import NAMELESS
from nbhelpers.types import Images

CATCH = 0.1  # of the trials, at least


@dataclass(frozen=True)
class Condition:
    """A layer of a network; without one, an untouched original: a catch trial."""

    network: str = ""  # label
    layer: str = ""  # name
    depth: int = 0  # place among the layers, from 1


@dataclass(frozen=True)
class Trial:
    """One picture and the names to choose from."""

    image: int  # index
    condition: Condition
    choices: tuple[str, ...]  # in the order of the alphabet
    right: int  # index of the image's own name among them


def plan_trials(
    names: Sequence[str],
    colours: Tensor,
    conditions: Sequence[Condition],
    *,
    trials: int = 40,
    choices: int = 10,
    seed: int = 0,
) -> list[Trial]:
    """A session: no image twice, conditions balanced, no name a giveaway by colour alone.

    Every condition comes equally often, once in each round, in a random order; where the number
    does not go up, the rest are catch trials, a tenth at least. The first trial is a catch trial.
    The wrong names are drawn from twice as many whose images are nearest in mean colour.

    Args:
        names: what each image shows, (n,); images without a name are left out.
        colours: mean colour of each image, (n, channels).
        conditions: what to compare.
        trials: in a session.
        choices: names in each trial, at most 10, or as many as there are.
        seed: of the whole plan.

    Raises:
        ValueError: fewer named images than trials, fewer trials than conditions and a catch trial,
            a single name, or more than ten choices.
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
    """Rounds, each with every condition once and its share of the catch trials."""
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
    """The other names, that of the image nearest in mean colour first."""
    far = torch.linalg.vector_norm(colours - colours[image], dim=1)
    near = sorted(usable, key=lambda k: far[k].item())
    return list(dict.fromkeys(names[k] for k in near if names[k] != names[image]))
