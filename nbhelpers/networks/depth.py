"""The layers at which a network can be cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from nbhelpers.networks.sites import Site

_FEW = 3  # blocks that a level needs
_MANY = 8  # single layers; if more, only the last of each resolution


@dataclass(frozen=True)
class Layer:
    """A module usable as `load_model(…, layer=name)`, and its output at the model's image size."""

    name: str
    channels: int
    height: int  # for tokens their number
    width: int  # 1 for tokens


@dataclass(frozen=True)
class Place:
    """A layer and its position in the module tree."""

    layer: Layer
    steps: int  # weighted operations inside; 0 for a single operation
    parent: str  # the nearest enclosing module that is called; "" for the network
    weighted: bool  # a single operation with a kernel or a matrix
    once: bool  # called once per pass
    resized: bool  # adaptive pooling, which has a fixed output size


def layers(model: nn.Module, *, detail: bool = False) -> list[Layer]:
    """The layers at which a network can be cut, in order.

    Args:
        model: an `nb.Model`, whatever its `layer`.
        detail: every module with one output per image, not only stages and blocks.

    Raises:
        TypeError: not a `Model`.
    """
    places: tuple[Place, ...] | None = getattr(model, "places", None)
    if places is None:
        raise TypeError(f"model: got {type(model).__name__}, wanted nb.Model(network, …)")
    if detail:
        return [place.layer for place in places]
    level = _level(places)
    blocks = any(place.steps for place in level)
    found: list[Place] = []
    run: list[Place] = []
    for place in level:
        if place.steps:
            found += [*_ends(run, single=blocks), place]
            run = []
        else:
            run.append(place)
    found += _ends(run, single=blocks)
    return [place.layer for place in found if _positions(place) > 1]


def places(site: Site, network: nn.Module) -> tuple[Place, ...]:
    """Every module with one output per image, in the order of their outputs."""
    modules = dict(network.named_modules())
    widths = {len(weight) for weight in network.parameters() if weight.ndim}
    two, three, other = _shapes(site)
    order = {name: index for index, (name, _) in enumerate(two)}  # the last call counts
    counts: dict[str, int] = {}
    for name, _ in two:
        counts[name] = counts.get(name, 0) + 1
    last, more, small = dict(two), dict(three), dict(other)
    weighted = {name for name in last if _weighted(modules[name], name, last)}
    parents = {name: _parent(name, last) for name in last}
    found = []
    for name in sorted(order, key=order.__getitem__):
        sizes = _sizes(last[name], more.get(name, ()), small.get(name, ()), widths)
        if sizes is None:
            continue
        module = modules[name]
        inside = sum(one.startswith(f"{name}.") for one in weighted)
        resized = isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d)
        once = counts[name] == 1
        layer, single = Layer(name, *sizes), name in weighted
        found.append(Place(layer, inside, parents[name], single, once, resized))
    return tuple(found)


def _weighted(module: nn.Module, name: str, called: dict[str, tuple[int, ...]]) -> bool:
    """Whether a module is a single weighted operation; the weight may be parametrised."""
    inner = [one.removeprefix(f"{name}.") for one in called if one.startswith(f"{name}.")]
    alone = all(one.startswith("parametrizations") for one in inner)
    return alone and any(weight.ndim > 1 for weight in module.parameters())


def _shapes(site: Site) -> list[list[tuple[str, tuple[int, ...]]]]:
    """Output shapes for two images, for three, and for two of another size."""
    wanted = tuple(site.images.shape)
    passes = [[one for one in site.shapes if one.images == wanted]]
    passes += [[one for one in site.shapes if one.images == (3, *wanted[1:])]]
    passes += [
        [one for one in site.shapes if one.images[0] == 2 and one.images[2:] != wanted[2:]][-1:]
    ]
    return [found[0].outputs if found else [] for found in passes]


def _sizes(
    two: tuple[int, ...], three: tuple[int, ...], small: tuple[int, ...], widths: set[int]
) -> tuple[int, int, int] | None:
    """(channels, height, width) of a module's output; None without one output per image."""
    images = [a for a, length in enumerate(two) if len(three) != len(two) or three[a] != length]
    if len(two) not in (2, 3, 4) or len(images) != 1 or two[images[0]] != 2:
        return None
    rest = [axis for axis in range(len(two)) if axis != images[0]]
    if len(rest) == 1:
        return two[rest[0]], 1, 1
    grown = [a for a in rest if len(small) == len(two) and small[a] != two[a]]
    fixed = [axis for axis in rest if axis not in grown] if grown else rest
    known = [axis for axis in fixed if two[axis] in widths] or fixed
    channels = known[-1] if len(rest) == 2 else known[0]  # (tokens, channels), but (channels, h, w)
    sides = [two[axis] for axis in rest if axis != channels]
    return two[channels], sides[0], math.prod(sides[1:])


def _parent(name: str, called: dict[str, tuple[int, ...]]) -> str:
    while name:
        name = name.rpartition(".")[0]
        if name in called:
            return name
    return ""


def _level(places: Sequence[Place]) -> list[Place]:
    """The network as a chain of parts; the largest are split until there are a few blocks."""
    level = [place for place in places if not place.parent]
    while sum(place.steps > 0 and _positions(place) > 1 for place in level) < _FEW:
        largest = max(level, key=lambda place: place.steps, default=None)
        if largest is None or not largest.steps:
            break
        at = level.index(largest)
        level[at : at + 1] = [one for one in places if one.parent == largest.layer.name]
    return level


def _ends(run: Sequence[Place], *, single: bool) -> list[Place]:
    """The last of each group of single operations, which a weighted one begins.

    `single`: they are one group, as between blocks.
    """
    groups: list[list[Place]] = []
    for place in run:
        if place.weighted and not (single and groups):
            groups.append([])
        if groups and place.once and not place.resized and _positions(place) > 1:
            groups[-1].append(place)
    ends = [group[-1] for group in groups if group]
    if len(ends) <= _MANY:
        return ends
    before = [None, *ends]
    return [
        end
        for end, other in zip(ends, before, strict=False)
        if end is ends[-1] or (other is not None and _positions(end) < _positions(other))
    ]


def _positions(place: Place) -> int:
    return place.layer.height * place.layer.width
