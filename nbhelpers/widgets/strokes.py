"""Strokes of the canvas, and the note in a saved picture, from which `replay` repeats them."""

import base64
import functools
import hashlib
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy
import PIL.Image
import PIL.PngImagePlugin
import torch
from torch import Tensor

from nbhelpers.networks.loading import load_model
from nbhelpers.networks.model import Model
from nbhelpers.networks.regions import region
from nbhelpers.objectives import activate
from nbhelpers.optimize import Solver, Step, box, descend, l2_ball, within
from nbhelpers.types import Images, check_images
from nbhelpers.widgets.image_picker import encode
from nbhelpers.widgets.parts import Models

KEY = "nbhelpers"  # of the note among a PNG file's text chunks
ERASE = -1  # the eraser's component


@dataclass(frozen=True)
class Stroke:
    """One stroke: a component raised under a mask."""

    mask: Tensor  # (h, w) in [0, 1], multiples of 1/255
    component: int  # ERASE restores the source
    network: str  # label
    ceiling: float  # target activation; infinite for none
    steps: int
    step_size: float  # L2 length of the first step, pixel units
    radius: float = math.inf  # L2 bound on the change, pixel units
    name: str = ""  # the user's name for the component
    until: int | None = None  # steps done, if the run was stopped

    @property
    def end(self) -> int:
        """The last step's index."""
        return 0 if self.component == ERASE else self.steps if self.until is None else self.until


def follow(model: Model, stroke: Stroke, image: Images, source: Images) -> Iterator[Step]:
    """The iterates of a stroke on an image, (1, c, h, w); an eraser has only one."""
    mask = stroke.mask.to(image)
    if stroke.component == ERASE:
        yield Step(0, 0, torch.lerp(image, source.to(image), mask), image.new_zeros(1))
        return
    inside = l2_ball(image, stroke.radius) if math.isfinite(stroke.radius) else box
    project, goal = (
        within(mask, image, inside=inside),
        activate(stroke.component, ceiling=stroke.ceiling),
    )
    f, solver = region(model, mask), Solver(step_size=stroke.step_size)
    for step in descend(f, goal, image, steps=stroke.steps, solver=solver, project=project):
        yield step
        if step.index == stroke.end:
            return


def write_note(
    models: Models, source: Images, strokes: Sequence[Stroke], *, seed: int
) -> dict[str, Any]:
    """The note for `replay`: networks, strokes and source.

    Args:
        models: networks by label.
        source: (1, c, h, w), multiples of 1/255.
        strokes: in order.
        seed: of the palette.
    """
    return {
        "made with": f"nbhelpers {version('nbhelpers')}",
        "networks": {label: model.name for label, model in models.items()},
        "weights": {label: _weights(model) for label, model in models.items()},
        "seed": seed,
        "channels": source.shape[1],
        "source": as_text(encode(source[None])),
        "strokes": [
            {
                **vars(stroke),
                # JSON has no infinity
                "ceiling": stroke.ceiling if math.isfinite(stroke.ceiling) else None,
                "radius": stroke.radius if math.isfinite(stroke.radius) else None,
                "mask": as_text(encode(stroke.mask[None, None, None])),
            }
            for stroke in strokes
        ],
    }


def signed(picture: bytes, note: Mapping[str, Any]) -> bytes:
    """The PNG file with a note among its text chunks."""
    info, buffer = PIL.PngImagePlugin.PngInfo(), io.BytesIO()
    info.add_itxt(KEY, json.dumps(note, ensure_ascii=False), zip=True)
    with PIL.Image.open(io.BytesIO(picture)) as opened:
        opened.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def read_note(file: bytes, name: str) -> dict[str, Any]:
    """The note of a PNG file from the canvas.

    Raises:
        ValueError: the file `name` has none.
    """
    try:
        with PIL.Image.open(io.BytesIO(file)) as opened:
            note = json.loads(getattr(opened, "text", {})[KEY])
    except Exception:  # Pillow raises anything for damaged files
        note = None
    if not isinstance(note, dict):
        raise ValueError(f"note: {name} has none; give a PNG that the canvas saved")
    return note


def strokes_of(note: Mapping[str, Any], models: Models) -> tuple[Images, list[Stroke]]:
    """A note's source, (1, c, h, w), and strokes, with the labels of `models`.

    Args:
        note: from `write_note`.
        models: networks by any labels, matched by name and weights.

    Raises:
        ValueError: a missing network, or a damaged note.
        IndexError: a component outside the network's.
    """
    try:
        source, strokes, labels = _pixels(note["source"])[:, : note["channels"]], [], {}
        for kept in note["strokes"]:
            label = kept["network"]
            if label not in labels:
                labels[label] = _among(
                    models, note["networks"][label], note.get("weights", {}).get(label)
                )
            numbers = {
                key: math.inf if kept.get(key) is None else float(kept[key])
                for key in ("ceiling", "radius")
            }
            mask = _pixels(kept["mask"])[0, 0]
            stroke = Stroke(**{**kept, **numbers, "mask": mask, "network": labels[label]})
            within(mask, source)  # raises for a mask of another size
            if not ERASE <= stroke.component < (most := models[stroke.network].components):
                raise IndexError(
                    f"component: got {stroke.component}, wanted 0 to {most - 1} of {label}"
                )
            strokes.append(stroke)
    except (KeyError, TypeError, AttributeError, OSError) as error:
        raise ValueError(
            f"note: it is damaged ({type(error).__name__}: {error}); save the picture again"
        ) from None
    return source, strokes


def replay(
    note: str | os.PathLike[str] | Mapping,
    *,
    models: Models | None = None,
    device: str | torch.device = "auto",
) -> Images:
    """Paint a saved picture again from its note, (1, c, h, w).

    Args:
        note: a PNG file from the canvas, or the note itself.
        models: networks by any labels; None: loaded by the names in the note.
        device: as in `load_model`.

    Raises:
        ValueError: a file without a note, or a network with other weights.
        IndexError: a component outside the network's.
    """
    given = (
        note if isinstance(note, Mapping) else read_note(Path(note).read_bytes(), Path(note).name)
    )
    if models is None:
        used = {stroke["network"] for stroke in given["strokes"]}
        load = functools.partial(load_model, device=device)
        models = {label: load(given["networks"][label]) for label in sorted(used)}
    source, strokes = strokes_of(given, models)
    image = source
    for stroke in strokes:
        model = models[stroke.network]
        *_, step = follow(model, stroke, image.to(model.device), source)
        image = step.images.cpu()
    return image


def as_text(file: bytes) -> str:
    """A file as base64."""
    return base64.b64encode(file).decode()


def _weights(model: Model) -> str:
    """A hash of the head, which batch norm folding does not change."""
    try:
        weight = model.head.weight
    except ValueError:  # cut at an inner layer
        return ""
    return hashlib.sha256(weight.detach().float().cpu().numpy().tobytes()).hexdigest()[:12]


def _among(models: Models, name: str, weights: str | None) -> str:
    """The label in `models` of the note's network."""
    called = [label for label, model in models.items() if model.name == name]
    for label in called:
        if weights in (None, _weights(models[label])):
            return label
    has = ", ".join(dict.fromkeys(model.name for model in models.values()))
    wrong = "it has other weights here" if called else f"here are {has}"
    raise ValueError(f"note: it was painted with {name}; {wrong}")


def _pixels(text: str) -> Images:
    with PIL.Image.open(io.BytesIO(base64.b64decode(text))) as picture:
        pixels = torch.from_numpy(numpy.array(picture.convert("RGB"))).permute(2, 0, 1)[None] / 255
    check_images(pixels)
    return pixels
