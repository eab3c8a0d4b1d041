"""The demo of classes: a class's logit, maximised from faint noise."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from nbhelpers.objectives import activate
from nbhelpers.optimize import Solver, Step, descend
from nbhelpers.representation import noise
from nbhelpers.types import Size, two_sides
from nbhelpers.widgets.class_picker import ClassPicker
from nbhelpers.widgets.depths import judges_of
from nbhelpers.widgets.live import Captions, Demo
from nbhelpers.widgets.parts import (
    Draw,
    Models,
    live_of,
    preview,
    previewed,
    robust_first,
    seen,
    sheet,
)
from nbhelpers.widgets.settings import CLASSES

FAINT = 0.25  # scale of the noise around grey


def classes(
    models: Models, *, size: Size | None = None, steps: int | None = None, seed: int = 0
) -> Demo:
    """Maximise a class's logit from faint noise in each network.

    Captions: the *other* network's prediction, and the logit.

    Args:
        models: networks by name, with class names in common.
        size: of the images, pixels; None: the networks' own.
        steps: gradient steps; None: 40, 25 above 64 pixels.
        seed: of the noise.

    Raises:
        ValueError: no class in common; no `size`, and networks of none or several.

    Source: class-conditional samples, Santurkar et al., arXiv:1906.09453.
    """
    models = robust_first(models)
    names = common_classes(models)
    start = faint_noise(models, size, seed)
    steps, judges = CLASSES.steps_for(start, steps), judges_of(models)
    picker = ClassPicker(names, side=max(start.shape[-2:]))

    def plan(index: int) -> tuple[list[Iterable[Step]], Draw]:
        runs = []
        for model in models.values():
            place = model.classes.index(names[index])
            goal, begin = activate(place), start.to(model.device)
            runs.append(
                _after_preview(
                    begin,
                    steps,
                    descend(
                        model,
                        goal,
                        begin,
                        steps=steps,
                        solver=Solver(step_size=CLASSES.step(steps, begin)),
                    ),
                )
            )

        def draw(now: Sequence[Step]) -> tuple[Tensor, Captions]:
            texts = []
            for label, step in zip(models, now, strict=True):
                judge, other = judges[label]
                text = "" if preview(step) else f"{judge}: {seen(other, step.images)[0]}"
                texts.append(text and f"{text}\nlogit {-step.losses[0].item():.1f}")
            return sheet([step.images for step in now]), [texts]

        return runs, draw

    note = (
        f"{steps} steps of normalised gradient descent from faint noise; no image prior. A random "
        f"guess names the class in 1 of {len(names)} drawings."
    )
    live = live_of(plan, [""], list(models), about=CLASSES.about, note=note)
    return Demo("Classes", [picker], live)


def common_classes(models: Models) -> list[str]:
    """The classes of all networks, in the first one's order.

    Raises:
        ValueError: no class in common.
    """
    first, *rest = (model.classes for model in models.values())
    names = [name for name in first if all(name in other for other in rest)]
    if not names:
        raise ValueError(f"models: {', '.join(models)} have no class in common; give others")
    return names


def faint_noise(models: Models, size: Size | None, seed: int) -> Tensor:
    """Faint noise around grey in the networks' size, (1, c, h, w)."""
    sizes = {model.image_size for model in models.values()}
    channels = {model.channels for model in models.values()}
    if size is None and (len(sizes) != 1 or None in sizes):
        raise ValueError(f"size: the networks are for {sorted(map(str, sizes))} pixels; give size=")
    if len(channels) != 1:
        raise ValueError(f"models: got networks of {sorted(channels)} channels, wanted one number")
    sides = two_sides(sizes.pop() if size is None else size)  # type: ignore[arg-type]
    return 0.5 + FAINT * (noise(1, size=sides, channels=channels.pop(), seed=seed) - 0.5)


def _after_preview(start: Tensor, steps: int, run: Iterable[Step]) -> Iterable[Step]:
    yield from previewed(start, steps)
    yield from run
