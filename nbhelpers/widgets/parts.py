"""What the demos are made of: pickers with captions, runs in step, sheets of pictures, and what
networks say.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from nbhelpers.data.images import open_images
from nbhelpers.data.sets import ImageSet
from nbhelpers.networks.model import Model
from nbhelpers.objectives import match
from nbhelpers.optimize import Solver, Step, box, descend, l2_ball
from nbhelpers.representation import interpolate, noise
from nbhelpers.types import Features, Images, Labels
from nbhelpers.widgets.image_picker import ImagePicker
from nbhelpers.widgets.live import Captions, Frame, Live
from nbhelpers.widgets.settings import LARGE, Settings

Pictures = Images | ImageSet  # pixels, or an opened set that has names
T = TypeVar("T")
Models = Mapping[str, Model]
Names = Labels | Sequence[str] | None  # class indices (−1: unknown), or a text for each image
Others = Mapping[str, Images | tuple[Images, Sequence[str]]]
Draw = Callable[[Sequence[Step]], tuple[Tensor, Captions]]
Plan = Callable[..., tuple[list[Iterable[Step]], Draw]]

FORMS = ("with positions", "averaged")  # of a representation, in the order of the switch


def robust_first(models: Mapping[str, T]) -> dict[str, T]:
    """The networks in the order of all figures and demos."""
    return dict(sorted(models.items(), key=lambda item: not item[0].startswith("robust")))  # stable


def fitted(models: Models, images: Images) -> Images:
    """Images with as many channels as the networks take: grey is repeated for a network of colours.

    Raises:
        ValueError: the networks take other images than these, or each another number of channels.
    """
    wanted = {len(model.mean) for model in models.values()}
    if len(wanted) == 1 and images.ndim == 4 and images.shape[1] == 1:
        return images.expand(-1, *wanted, -1, -1)
    if wanted != {images.shape[1]}:
        raise ValueError(
            f"images: got {images.shape[1]} channels, the networks take {sorted(wanted)}; convert "
            "them"
        )
    return images


def noise_like(images: Images, n: int, seed: int) -> Images:
    """`n` images of `noise`, with the channels and sides of these."""
    _, channels, height, width = images.shape
    return noise(n, size=(height, width), channels=channels, seed=seed)


def captions_of(models: Models, labels: Names, n: int) -> list[str]:
    """A text for each of `n` images: its class's name, its own text, or nothing where the class is
    unknown.

    Raises:
        ValueError: not `n` labels, or one beyond the networks' classes.
    """
    if labels is None:
        return [""] * n
    given = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    if len(given) != n:
        raise ValueError(f"labels: got {len(given)} for {n} images, wanted one each")
    if all(isinstance(label, str) for label in given):
        return given
    classes = next(iter(models.values())).classes
    for label in given:
        if not _is_label(label, len(classes)):
            raise ValueError(
                f"labels: got {label!r}, wanted 0 to {len(classes) - 1}, the networks' classes, or "
                "-1 for unknown"
            )
    return ["" if int(label) < 0 else classes[int(label)] for label in given]


def opened(models: Models, images: Pictures, labels: Names) -> tuple[Images, Names]:
    """Pixels, and labels or captions; of an opened set in the networks' size, with its own names.

    Raises:
        ValueError: a set of images of different sizes, for networks that have none.
    """
    if not isinstance(images, ImageSet):
        return images, labels
    sizes = [model.image_size for model in models.values() if model.image_size]
    chosen = images if images.size or not sizes else open_images(images, size=sizes[0])
    return chosen.load()[0], list(chosen.names) if labels is None else labels


def labelled(
    models: Models, images: Pictures, labels: Labels | None
) -> tuple[Images, Labels, list[str]]:
    """Pixels, labels in the networks' classes (−1: none of them), and captions.

    Raises:
        ValueError: pixels without labels, or as in `captions_of`.
    """
    classes = next(iter(models.values())).classes
    if isinstance(images, ImageSet):
        images = open_images(images, classes=classes)
        labels = images.labels if labels is None else labels
    if labels is None:
        raise ValueError("labels: got none; give the class of each image, -1 where unknown")
    names = captions_of(models, labels, len(images))
    pixels, given = opened(models, images, None)
    shown = names if given is None else captions_of(models, given, len(images))
    return pixels, torch.as_tensor(labels).cpu(), shown


def named(models: Models, images: Pictures, labels: Names) -> tuple[Images, list[str]]:
    """Pixels and captions, as `opened` and `captions_of` give them."""
    pixels, given = opened(models, images, labels)
    return pixels, captions_of(models, given, len(pixels))


def _is_label(label: object, classes: int) -> bool:
    with contextlib.suppress(TypeError, ValueError, OverflowError):  # a row, a text, NaN, infinity
        return label == int(label) and -1 <= int(label) < classes  # type: ignore[call-overload]
    return False


def picker_of(
    models: Models,
    images: Images,
    labels: Names,
    *,
    others: Others | None = None,
    label: str = "Choose an image",
    selected: int = 0,
    columns: int = 8,
) -> ImagePicker:
    """Images to pick from, and more under their own titles, each group perhaps with its
    captions.
    """
    # no title where there is one group: the images need not be a test set
    first = "images" if others else ""
    groups, names = {first: fitted(models, images)}, captions_of(models, labels, len(images))
    for title, given in (others or {}).items():
        batch, texts = given if isinstance(given, tuple) else (given, None)
        groups[title] = fitted(models, batch)
        names += captions_of(models, texts, len(batch))
    return ImagePicker(
        groups, captions=names, label=label, selected=selected, columns=columns, upload=True
    )


def pair_of(
    models: Models, images: Images, labels: Names, first: str, second: str
) -> tuple[ImagePicker, ImagePicker]:
    """Two pickers over the same images."""
    one, two = (
        picker_of(models, images, labels, label=label, selected=min(k, len(images) - 1), columns=6)
        for k, label in enumerate((first, second))
    )
    return one, two


def live_of(
    plan: Plan,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    slider: str = "",
    about: str = "",
    note: str = "",
) -> Live:
    """A live table of a plan: given the picked indices it returns the runs, and how to draw a
    moment of them.
    """

    def job(*pick: int) -> Iterator[Frame]:
        runs, draw = plan(*pick)
        # in step, so that the networks' pictures form side by side
        for now in zip(*runs, strict=True):
            yield Frame(now[0].index, now[0].total, partial(draw, now))

    return Live(job, rows=rows, columns=columns, slider=slider, about=about, note=note)


def note_of(steps: int, start: str) -> str:
    """How the pictures were computed, for the line under them."""
    return (
        f"{steps} steps of normalised gradient descent from {start}; momentum, decaying step "
        "size, no image prior."
    )


def switched(live: Live, models: Models, images: Images, positions: bool) -> Live:
    """The table with a switch between both forms of the representation, where the networks have
    both for images.
    """
    try:
        with torch.no_grad():
            found = [
                form(model, 0)(images[:1].to(model.device)).shape[1] for model in models.values()
            ]
    except ValueError:  # a network has positions for images of its own size only
        return live
    if found != [model.components for model in models.values()]:
        live.switch = list(FORMS)
        live.mode = 0 if positions else 1
    return live


def form(model: Model, mode: int) -> Callable[[Images], Features]:
    """The representation that the switch asks for."""
    return partial(model.representation, positions=FORMS[mode] == "with positions")


def matched(
    f: Callable[[Images], Features],
    target: Images,
    start: Images,
    *,
    settings: Settings,
    steps: int,
    radius: float | None = None,
) -> Iterable[Step]:
    """From `start` towards the target's representation; all on the representation's device."""
    yield from previewed(start, steps)
    with torch.no_grad():
        goal = match(f(target))
    project = box if radius is None else l2_ball(start, radius)
    yield from descend(
        f,
        goal,
        start,
        steps=steps,
        solver=Solver(step_size=settings.step(steps, start)),
        project=project,
    )


def mixed(
    f: Callable[[Images], Features],
    start: Images,
    amounts: Tensor,
    *,
    settings: Settings,
    steps: int,
) -> Iterable[Step]:
    """From mixed pixels towards the mixes of the representations of both ends; all on the
    representation's device.
    """
    yield from previewed(start, steps)
    with torch.no_grad():
        ends = f(start[[0, -1]])
    goal = match(interpolate(ends[0], ends[1], amounts))
    yield from descend(
        f, goal, start, steps=steps, solver=Solver(step_size=settings.step(steps, start))
    )


def previewed(start: Images, steps: int) -> Iterable[Step]:
    """Large start images as a step of their own, without losses: there before the first pass has
    ended.
    """
    if max(start.shape[-2:]) > LARGE:
        yield Step(0, steps, start, start.new_full((len(start),), math.nan))


def preview(step: Step) -> bool:
    """Whether it is one of `previewed`: no network has seen its images yet."""
    return step.index == 0 and bool(step.losses.isnan().all())


def sheet(*rows: Sequence[Images]) -> Tensor:
    """Rows of batches as one table, (rows, columns, c, h, w)."""
    return torch.stack([torch.cat([part.cpu() for part in row]) for row in rows])


def seen(model: Model, images: Images) -> list[str]:
    """The class that a network gives each image."""
    with torch.no_grad():
        return [model.classes[k] for k in model(images.to(model.device)).argmax(1).tolist()]


def matches(models: Models, now: Sequence[Step]) -> list[str]:
    """Class and distance of every picture, in two lines, network by network."""
    return [
        text
        for (label, model), step in zip(models.items(), now, strict=True)
        for text in said(
            model, step, lambda _, loss, name, label=label: f"{label}: {name}\ndistance {loss:.2f}"
        )
    ]


def said(model: Model, step: Step, text: Callable[..., str]) -> list[str]:
    """A text for every picture, out of its place, its loss and the class that the network gives
    it; "" in a preview.
    """
    if preview(step):
        return [""] * len(step.images)
    pairs = zip(step.losses.tolist(), seen(model, step.images), strict=True)
    return [text(k, loss, name) for k, (loss, name) in enumerate(pairs)]
