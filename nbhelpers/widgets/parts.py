"""Parts of the demos: pickers with captions, synchronous runs, sheets of pictures, predictions."""

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

Pictures = Images | ImageSet  # pixels, or an opened set with names
T = TypeVar("T")
Models = Mapping[str, Model]
Names = Labels | Sequence[str] | None  # class indices (−1: unknown), or a text per image
Others = Mapping[str, Images | tuple[Images, Sequence[str]]]
Draw = Callable[[Sequence[Step]], tuple[Tensor, Captions]]
Plan = Callable[..., tuple[list[Iterable[Step]], Draw]]

FORMS = ("with positions", "averaged")  # of a representation, in the order of the switch


def robust_first(models: Mapping[str, T]) -> dict[str, T]:
    """The networks in the order of figures and demos."""
    return dict(sorted(models.items(), key=lambda item: not item[0].startswith("robust")))  # stable


def fitted(models: Models, images: Images) -> Images:
    """Images in the networks' number of channels; grey is repeated for colour.

    Raises:
        ValueError: another number of channels, or networks that differ in theirs.
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
    """`n` images of `noise`, in the channels and sides of `images`."""
    _, channels, height, width = images.shape
    return noise(n, size=(height, width), channels=channels, seed=seed)


def captions_of(models: Models, labels: Names, n: int) -> list[str]:
    """A caption for each of `n` images: its text or class name, empty if unknown.

    Raises:
        ValueError: not `n` labels, or a label outside the networks' classes.
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
    """Pixels, and labels or captions; an opened set gives the networks' size and its own names.

    Raises:
        ValueError: a set with different image sizes, for networks without a size.
    """
    if not isinstance(images, ImageSet):
        return images, labels
    sizes = [model.image_size for model in models.values() if model.image_size]
    chosen = images if images.size or not sizes else open_images(images, size=sizes[0])
    return chosen.load()[0], list(chosen.names) if labels is None else labels


def labelled(
    models: Models, images: Pictures, labels: Labels | None
) -> tuple[Images, Labels, list[str]]:
    """Pixels, labels in the networks' classes (−1: not among them), and captions.

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
    with contextlib.suppress(TypeError, ValueError, OverflowError):  # a list, text, NaN, infinity
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
    """A picker of images, with `others` under their titles."""
    first = "images" if others else ""  # a single group needs no title
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
    """A live table of a plan, which maps picked indices to runs and a drawing function."""

    def job(*pick: int) -> Iterator[Frame]:
        runs, draw = plan(*pick)
        for now in zip(*runs, strict=True):  # all networks step by step
            yield Frame(now[0].index, now[0].total, partial(draw, now))

    return Live(job, rows=rows, columns=columns, slider=slider, about=about, note=note)


def note_of(steps: int, start: str) -> str:
    """How the pictures were computed."""
    return (
        f"{steps} steps of normalised gradient descent from {start}; momentum, decaying step "
        "size, no image prior."
    )


def switched(live: Live, models: Models, images: Images, positions: bool) -> Live:
    """The table with a switch between both forms of the representation, if they differ."""
    try:
        with torch.no_grad():
            found = [
                form(model, 0)(images[:1].to(model.device)).shape[1] for model in models.values()
            ]
    except ValueError:  # a network with positions for one image size only
        return live
    if found != [model.components for model in models.values()]:
        live.switch = list(FORMS)
        live.mode = 0 if positions else 1
    return live


def form(model: Model, mode: int) -> Callable[[Images], Features]:
    """The representation in the form of a switch's `mode`."""
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
    """Gradient descent from `start` to the target's representation; all on one device."""
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
    """Gradient descent from mixed pixels to the ends' mixed representations; all on one device."""
    yield from previewed(start, steps)
    with torch.no_grad():
        ends = f(start[[0, -1]])
    goal = match(interpolate(ends[0], ends[1], amounts))
    yield from descend(
        f, goal, start, steps=steps, solver=Solver(step_size=settings.step(steps, start))
    )


def previewed(start: Images, steps: int) -> Iterable[Step]:
    """For large images a first step without losses, shown before the first forward pass."""
    if max(start.shape[-2:]) > LARGE:
        yield Step(0, steps, start, start.new_full((len(start),), math.nan))


def preview(step: Step) -> bool:
    """Whether a step is from `previewed`, without losses."""
    return step.index == 0 and bool(step.losses.isnan().all())


def sheet(*rows: Sequence[Images]) -> Tensor:
    """Rows of batches as a table, (rows, columns, c, h, w)."""
    return torch.stack([torch.cat([part.cpu() for part in row]) for row in rows])


def seen(model: Model, images: Images) -> list[str]:
    """The predicted class of each image."""
    with torch.no_grad():
        return [model.classes[k] for k in model(images.to(model.device)).argmax(1).tolist()]


def matches(models: Models, now: Sequence[Step]) -> list[str]:
    """Captions by network: prediction and distance."""
    return [
        text
        for (label, model), step in zip(models.items(), now, strict=True)
        for text in step_captions(
            model, step, lambda _, loss, name, label=label: f"{label}: {name}\ndistance {loss:.2f}"
        )
    ]


def step_captions(model: Model, step: Step, text: Callable[..., str]) -> list[str]:
    """Captions from index, loss and prediction of each picture; "" in a preview."""
    if preview(step):
        return [""] * len(step.images)
    pairs = zip(step.losses.tolist(), seen(model, step.images), strict=True)
    return [text(k, loss, name) for k, (loss, name) in enumerate(pairs)]
