"""Two demos of inversion: in two networks, and in a series of training radii ε."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from nbhelpers.networks.radii import series
from nbhelpers.optimize import Step
from nbhelpers.widgets.live import Captions, Demo
from nbhelpers.widgets.parts import (
    Draw,
    Models,
    Names,
    Others,
    Pictures,
    form,
    live_of,
    matched,
    matches,
    noise_like,
    note_of,
    opened,
    picker_of,
    robust_first,
    sheet,
    switched,
)
from nbhelpers.widgets.settings import INVERSION, SERIES, SMALL, STARTS


def inversion(
    models: Models,
    images: Pictures,
    labels: Names = None,
    *,
    others: Others | None = None,
    positions: bool = True,
    steps: int | None = None,
    seed: int = 0,
) -> Demo:
    """Invert an image's representation, from noise, in each network.

    Up to 32 pixels, a second row has the mean of sixteen inversions from different starts.

    Args:
        models: networks by name; the robust one comes first.
        images: (n, c, h, w) in [0, 1]; or a set from `open_images`.
        labels: (n,) classes, −1 if unknown; or texts; None: the set's names.
        others: further images of the same size by title, such as "out of distribution"; a batch,
            or a batch with its texts.
        positions: initial form of the representation; a switch changes it.
        steps: gradient steps, half as many for each of the sixteen; None: 100, 25 above 64 pixels.
        seed: of the noise.

    Raises:
        ValueError: a label outside the classes, or images that do not fit the networks.
    """
    models = robust_first(models)
    images, labels = opened(models, images, labels)
    picker, steps = (
        picker_of(models, images, labels, others=others),
        INVERSION.steps_for(images, steps),
    )
    starts = noise_like(picker.pixels, STARTS if max(images.shape[-2:]) <= SMALL else 1, seed)
    means = len(starts) > 1

    def plan(index: int, mode: int = 1) -> tuple[list[Iterable[Step]], Draw]:
        target, half = picker.pixels[index : index + 1], (steps + 1) // 2
        fs = [form(model, mode) for model in models.values()]
        places = [model.device for model in models.values()]
        runs: list[Iterable[Step]] = [
            matched(f, target.to(place), starts[:1].to(place), settings=INVERSION, steps=steps)
            for f, place in zip(fs, places, strict=True)
        ]
        if means:  # after the single ones, which are sixteen times faster
            runs = [_among(run, after=half) for run in runs]
            for f, place in zip(fs, places, strict=True):
                run = matched(f, target.to(place), starts.to(place), settings=INVERSION, steps=half)
                runs.append(_among(run, before=steps))

        def draw(now: Sequence[Step]) -> tuple[Tensor, Captions]:
            singles = now[: len(models)]
            rows, texts = (
                [[target, *(step.images for step in singles)]],
                [[picker.captions[index], *matches(models, singles)]],
            )
            if means:
                rows.append(
                    [target, *(step.images.mean(0, keepdim=True) for step in now[len(models) :])]
                )
                texts.append([""] * (1 + len(models)))
            return sheet(*rows), texts

        return runs, draw

    rows = ["from one start", f"mean of {STARTS} starts"] if means else [""]
    note = note_of(steps, "noise") + (
        f" Then the means: {(steps + 1) // 2} steps each." if means else ""
    )
    live = live_of(plan, rows, ["original", *models], about=INVERSION.about, note=note)
    return Demo("Inversion", [picker], switched(live, models, picker.pixels, positions))


def epsilon_series(
    models: Models | str,
    images: Pictures,
    labels: Names = None,
    *,
    others: Others | None = None,
    positions: bool = True,
    steps: int | None = None,
    seed: int = 0,
) -> Demo:
    """Pick an image; see it rebuilt by networks trained at several ε, with a slider over them.

    Args:
        models: by ε in rising order, such as {"0": …, "0.25": …, "0.5": …}; or the name of one, for
            its `series`.
        images, labels, others, positions, steps, seed: as in `inversion`.
    """
    networks = series(models) if isinstance(models, str) else models
    images, labels = opened(networks, images, labels)
    picker, steps = (
        picker_of(networks, images, labels, others=others),
        SERIES.steps_for(images, steps),
    )
    start = noise_like(picker.pixels, 1, seed)

    def plan(index: int, mode: int = 1) -> tuple[list[Iterable[Step]], Draw]:
        target = picker.pixels[index : index + 1]
        runs = [
            matched(
                form(model, mode),
                target.to(model.device),
                start.to(model.device),
                settings=SERIES,
                steps=steps,
            )
            for model in networks.values()
        ]

        def draw(now: Sequence[Step]) -> tuple[Tensor, Captions]:
            pictures = sheet([target] * len(now), [step.images for step in now])
            texts = matches({f"ε = {eps}": model for eps, model in networks.items()}, now)
            return pictures, [[picker.captions[index]] * len(now), texts]

        return runs, draw

    rows, note = ["original", "reconstruction"], note_of(steps, "noise")
    live = live_of(
        plan, rows, list(networks), slider="trained at ε =", about=SERIES.about, note=note
    )
    live.at, live.fixed = len(networks) - 1, 1
    return Demo(
        "Inversion by training radius ε",
        [picker],
        switched(live, networks, picker.pixels, positions),
    )


def _among(run: Iterable[Step], *, before: int = 0, after: int = 0) -> Iterator[Step]:
    """A run that repeats its first step `before` times and its last one `after` times."""
    for step in run:
        total = before + step.total + after
        first = 0 if step.index == 0 else before + step.index
        last = total if step.index == step.total else before + step.index
        for index in range(first, last + 1):
            yield replace(step, index=index, total=total)
