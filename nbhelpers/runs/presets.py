"""Presets of parameters for all notebooks, their downloads and minimal duration."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nbhelpers import files
from nbhelpers.checkpoints.downloads import (
    addresses,
    fetch,
    fetch_library,
    library_place,
    remote_size,
)
from nbhelpers.checkpoints.entries import dataset_facts, entry, manifest
from nbhelpers.networks.loading import build_network, load_model
from nbhelpers.networks.model import Model
from nbhelpers.objectives import match
from nbhelpers.optimize import Solver, minimize
from nbhelpers.representation import noise
from nbhelpers.runs.grid import read_values
from nbhelpers.types import pick_device, two_sides

FOLDER = files.NOTEBOOKS / "presets"


def read_preset(name: str) -> dict[str, Any]:
    """A preset's parameters, by name in notebooks/presets or by YAML path.

    Raises:
        ValueError: unknown preset, or not lines of `parameter: value`.
    """
    places = (FOLDER / f"{name}.yaml", Path(name).expanduser())
    for place in places:
        if place.is_file():
            return read_values(place)
    known = ", ".join(sorted(path.stem for path in FOLDER.glob("*.yaml")))
    raise ValueError(f"no preset {name!r}, and no such file; there are {known}")


def parts_of(preset: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The preset's values that are parameters of a notebook.

    `checkpoints` defaults to the baseline and the checkpoint.
    """
    given = dict(preset)
    if {"checkpoint", "baseline"} <= given.keys():
        given.setdefault(
            "checkpoints", list(dict.fromkeys([given["baseline"], given["checkpoint"]]))
        )
    return {name: value for name, value in given.items() if name in known and name != "out"}


@dataclass(frozen=True)
class Weights:
    """A network that a preset needs."""

    name: str
    size: int  # bytes to download; 0 if local
    exact: bool  # the size is the server's; else the weights' alone
    address: str  # "" if local
    seconds: float  # per image and gradient step


def networks_of(parameters: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The networks of some runs, `checkpoint` first, as a preset for `survey`."""
    runs = list(parameters)
    names = [run[key] for key in ("checkpoint", "baseline") for run in runs if run.get(key)]
    several = [name for run in runs for name in run.get("checkpoints") or []]
    return {"checkpoints": list(dict.fromkeys([*names, *several]))}


def survey(preset: Mapping[str, Any], device: str = "auto") -> list[Weights]:
    """The networks of a preset: downloads, and speed on this device.

    Downloads nothing: sizes come from servers, times from two steps with random weights.

    Raises:
        ValueError: unknown name.
    """
    names = [preset.get("checkpoint"), preset.get("baseline"), *preset.get("checkpoints", [])]
    found, timed = [], dict[str, tuple[float, int]]()
    for name in dict.fromkeys(str(name) for name in names if name):
        file, published, kind = _source(name)
        if kind not in timed:
            timed[kind] = _timed(name, kind, device)
        seconds, weight = timed[kind]
        size, exact, address = 0, True, ""
        if published:
            tried = addresses(file, published)
            size, address = next(
                ((n, url) for url in tried if (n := remote_size(url))), (0, tried[0])
            )
            size, exact = size or weight, bool(size)
        found.append(Weights(name, size, exact, address, seconds))
    return found


def obtain(name: str) -> None:
    """Download a network of `survey`, with progress; resumes a broken download."""
    if name in manifest():
        fetch(name)
    elif name.startswith("torchvision:"):
        fetch_library(_torchvision(name))


def _torchvision(name: str) -> str:
    import torchvision.models  # late: the import takes seconds

    return torchvision.models.get_model_weights(name.partition(":")[2]).DEFAULT.url


def _source(name: str) -> tuple[str, list[str], str]:
    """A network's file, addresses ([] if local) and architecture."""
    known = manifest()
    if name in known:
        about, cache = known[name], files.cache_folder()
        places = (files.CHECKPOINTS / about.file, cache / f"{name}.safetensors", cache / about.file)
        here = any(place.exists() for place in places)
        return (
            about.file,
            [] if here else list(about.urls),
            f"{about.architecture} {dict(about.arguments)}",
        )
    if name.startswith("torchvision:"):
        place = library_place(_torchvision(name))
        return place.name, [] if place.exists() else [_torchvision(name)], f"{name} {{}}"
    return name, [], name  # a file, or timm's, which downloads by itself


def _timed(name: str, kind: str, device: str) -> tuple[float, int]:
    """Seconds per image and step, measured with random weights, and the weights' bytes."""
    place = pick_device(device)
    if name in manifest():
        known = entry(name)
        size: Any = known.image_size or 32
        network = build_network(
            known.architecture, len(known.classes) or None, dict(known.arguments)
        )
        model = Model(network, image_size=size)
    elif name.startswith("torchvision:"):
        size = dataset_facts("imagenet")["image_size"]
        model = Model(build_network(name, None, {}), image_size=size)
    else:  # a user's file, which must be loaded; timm's without its download
        model = load_model(name, device="cpu", pretrained=not name.startswith("timm:"))
        size = model.image_size or 32
    weight = sum(4 * tensor.numel() for tensor in model.parameters())
    model = model.to(place)
    few = 2 if max(two_sides(size)) > 64 else 8
    images = noise(few, size=size, channels=model.channels, seed=0).to(place)
    goal = match(
        model.representation(
            noise(few, size=size, channels=model.channels, seed=1).to(place)
        ).detach()
    )
    minimize(model.representation, goal, images, steps=1)  # warm-up
    began = time.perf_counter()
    minimize(model.representation, goal, images, steps=2, solver=Solver(keep="last"))
    if place.type == "cuda":
        torch.cuda.synchronize()
    # Two forward and backward passes, and a forward pass for the last loss.
    return (time.perf_counter() - began) / (2 + 1 / 3) / few, weight


def least_seconds(values: Mapping[str, Any], seconds: Mapping[str, float]) -> float:
    """A notebook's minimal duration, seconds: images × steps × networks.

    Args:
        values: all its parameters.
        seconds: network → seconds per image and step, from `survey`.
    """
    names = values.get("checkpoints") or [values.get("checkpoint"), values.get("baseline")]
    work = float(values.get("n_images", 1)) * float(values.get("steps", 1))
    return work * sum(seconds.get(str(name), 0.0) for name in names)
