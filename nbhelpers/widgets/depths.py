"""The demo of layers: inversion from each layer of each network."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from nbhelpers.data.likeness import ssim
from nbhelpers.networks.depth import layers as layers_of
from nbhelpers.networks.loading import load_model
from nbhelpers.networks.model import Model
from nbhelpers.optimize import Step
from nbhelpers.types import Images
from nbhelpers.widgets.live import Captions, Demo
from nbhelpers.widgets.parts import (
    Draw,
    Names,
    Others,
    Pictures,
    live_of,
    matched,
    noise_like,
    note_of,
    opened,
    picker_of,
    preview,
    robust_first,
    seen,
    sheet,
)
from nbhelpers.widgets.settings import LAYERS

# A network; or the same network cut at several layers, by their names in order.
Cuts = Model | Mapping[str, Model]
MOST = 6  # default number of layers


def layers(
    models: Mapping[str, Cuts],
    images: Pictures,
    labels: Names = None,
    *,
    layers: Sequence[str] | None = None,
    others: Others | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> Demo:
    """Invert an image from each layer of each network, with a slider over depth.

    Captions: SSIM with the original, and the *other* network's prediction.

    Args:
        models: networks by name, each loaded again by its own name at every layer; or, for your
            own network, {"layer1": nb.Model(network, layer="layer1", pool="flatten"), …}.
        images, labels, others, seed: as in `inversion`.
        layers: module names in order; None: at most six of `nb.layers`.
        steps: gradient steps; None: 100, 25 above 64 pixels.

    Raises:
        ValueError: an unknown layer, a network that cannot be loaded by its name, different
            numbers of layers, or as in `inversion`.

    Source: the metamers of Feather et al., NeurIPS 2019.
    """
    cuts = {
        label: cuts_of(label, network, layers) for label, network in robust_first(models).items()
    }
    names = layer_heads(cuts)
    whole = {label: next(iter(found.values())) for label, found in cuts.items()}
    images, labels = opened(whole, images, labels)
    picker = picker_of(whole, images, labels, others=others)
    steps = LAYERS.steps_for(images, steps)
    start = noise_like(picker.pixels, 1, seed)
    judges = judges_of(whole)

    def plan(index: int) -> tuple[list[Iterable[Step]], Draw]:
        target = picker.pixels[index : index + 1]
        runs = [
            matched(
                model.representation,
                target.to(model.device),
                start.to(model.device),
                settings=LAYERS,
                steps=steps,
            )
            for found in cuts.values()
            for model in found.values()
        ]

        def draw(now: Sequence[Step]) -> tuple[Tensor, Captions]:
            count = len(names)
            pictures = [torch.cat([step.images.cpu() for step in now]).split(count)]
            texts = [[picker.captions[index]] * count]
            for label, made in zip(cuts, pictures[0], strict=True):
                texts.append(
                    [""] * count
                    if preview(now[0])
                    else alike(made, target.expand_as(made), *judges[label])
                )
            return sheet([target] * count, *([made] for made in pictures[0])), texts

        return runs, draw

    note = note_of(steps, "noise") + " SSIM: 1 is the original."
    live = live_of(plan, ["original", *cuts], names, slider="layer", about=LAYERS.about, note=note)
    live.at, live.fixed = len(names) - 1, 1
    return Demo("Layers", [picker], live)


def cuts_of(label: str, network: Cuts, layers: Sequence[str] | None = None) -> dict[str, Model]:
    """A network cut at each layer, with all positions.

    Args:
        label: for errors.
        network: loaded by a name, or cut already.
        layers: module names; None: all cuts, or at most six of `nb.layers`.

    Raises:
        ValueError: an unknown layer, or a network that cannot be loaded by its name.
    """
    if isinstance(network, Mapping):
        unknown = [name for name in layers or () if name not in network]
        if unknown or not network:
            raise ValueError(f"layers: got {unknown}, {label} was given cut at {list(network)}")
        return {name: network[name] for name in layers or network}
    found = {}
    for name in layers or _spread([layer.name for layer in layers_of(network)]):
        try:
            found[name] = load_model(
                network.name, device=network.device, layer=name, pool="flatten"
            )
        except (ValueError, FileNotFoundError, ImportError) as error:
            raise ValueError(
                f"models: {label} ({network.name}) cannot be cut at {name!r}: {error}; give "
                'it cut: {"layer1": nb.Model(…, layer="layer1", pool="flatten"), …}'
            ) from error
    return found


def layer_heads(cuts: Mapping[str, Mapping[str, Model]]) -> list[str]:
    """The layers' names if all networks share them, else their numbers from 1.

    Raises:
        ValueError: different numbers of layers.
    """
    named = [list(found) for found in cuts.values()]
    if len({len(names) for names in named}) != 1:
        counts = {label: len(found) for label, found in cuts.items()}
        raise ValueError(f"layers: got {counts}, wanted as many of each network")
    if all(names == named[0] for names in named):
        return named[0]
    return [str(k + 1) for k in range(len(named[0]))]


def judges_of(models: Mapping[str, Model]) -> dict[str, tuple[str, Model]]:
    """Each network's held-out judge and its label: the next network, or itself if alone."""
    named = list(models.items())
    return {label: named[(k + 1) % len(named)] for k, (label, _) in enumerate(named)}


def alike(images: Images, originals: Images, judge: str, model: Model) -> list[str]:
    """Captions: SSIM with the original, and the judge's prediction."""
    values = ssim(images, originals).tolist()
    return [
        f"SSIM {value:z.2f}\n{judge}: {name}"
        for value, name in zip(values, seen(model, images), strict=True)
    ]


def _spread(names: list[str]) -> list[str]:
    """At most `MOST` evenly spaced layers, with the last."""
    count = min(MOST, len(names))
    return [names[(k + 1) * len(names) // count - 1] for k in range(count)]


def deepest(network: Cuts, count: int) -> list[str] | None:
    """The last `count` layers; None, for all, if the network is cut already."""
    if isinstance(network, Mapping):
        return None
    return [layer.name for layer in layers_of(network)][-count:]
