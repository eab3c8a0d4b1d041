"""The demo of distances: changes of one length, in the order of how far each network finds them."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from nbhelpers.data.distortions import DISTORTIONS, distort_to
from nbhelpers.objectives import leave
from nbhelpers.optimize import Solver, Step, descend, l2_ball
from nbhelpers.representation import distance
from nbhelpers.types import Images
from nbhelpers.widgets.live import Captions, Demo
from nbhelpers.widgets.parts import (
    Draw,
    Models,
    Names,
    Pictures,
    captions_of,
    fitted,
    form,
    live_of,
    noise_like,
    opened,
    picker_of,
    robust_first,
    seen,
    sheet,
    switched,
)
from nbhelpers.widgets.settings import DISTANCE

OTHER = "another picture"


def distances(
    models: Models,
    images: Pictures,
    labels: Names = None,
    *,
    length: float | None = None,
    positions: bool = True,
    steps: int | None = None,
    seed: int = 0,
) -> Demo:
    """Pick an image; see changes of it that have one L2 length, the nearest first in each network's
    eyes.

    Among them, changes that are looked for against each network while you look; and another
    picture, of the same class where there is one, which is no change at all.

    Args:
        models, images, labels, positions: as in `inversion`.
        length: L2 length of all changes, pixel units; None is 2 for 32-pixel images, and grows with
            the side.
        steps: gradient steps of the changes against a network; None is 30, and 25 above 64 pixels.
        seed: of noise, and of what is covered.
    """
    models = robust_first(models)
    images, labels = opened(models, images, labels)
    images = fitted(models, images)
    steps, far = DISTANCE.steps_for(images, steps), DISTANCE.ball(images, length)
    assert far is not None
    names = captions_of(models, labels, len(images))
    picker = picker_of(models, images, names)
    kinds = [*DISTORTIONS, *(f"against {label}" for label in models), OTHER]

    def another(index: int) -> Images:
        """Of the same class, or else the next one."""
        name, ahead = picker.captions[index], [*range(index + 1, len(images)), *range(index)]
        same = [k for k in ahead if k < len(images) and name and names[k] == name]
        return picker.pixels[(same or [(index + 1) % len(images)])[0]][None]

    def changed(index: int) -> Images:
        """The changes that no network has a part in, and the other picture."""
        image = picker.pixels[index : index + 1]
        coloured = image.expand(-1, 3, -1, -1)
        plain = [
            distort_to(coloured, kind, far, seed=seed)[:, : image.shape[1]] for kind in DISTORTIONS
        ]
        return torch.cat([*plain, another(index)])

    def plan(index: int, mode: int = 1) -> tuple[list[Iterable[Step]], Draw]:
        image = picker.pixels[index : index + 1]
        fixed = changed(index)
        # at the image itself there is no way to go
        begin = (image + noise_like(image, 1, seed) - 0.5).clamp(0, 1)
        runs: list[Iterable[Step]] = []
        for model in models.values():
            f, center = form(model, mode), image.to(model.device)
            with torch.no_grad():
                goal = leave(f(center))
            ball, solver = l2_ball(center, far), Solver(step_size=DISTANCE.step(steps, image))
            start = ball(begin.to(model.device))
            runs.append(descend(f, goal, start, steps=steps, solver=solver, project=ball))
        own = {label: seen(model, image)[0] for label, model in models.items()}

        def draw(now: Sequence[Step]) -> tuple[Tensor, Captions]:
            pictures = torch.cat([fixed[:-1], *(step.images.cpu() for step in now), fixed[-1:]])
            rows, texts = [], []
            for label, model in models.items():
                f, says = form(model, mode), seen(model, pictures)
                with torch.no_grad():
                    found = distance(
                        f(pictures.to(model.device)),
                        f(image.to(model.device)).expand(len(pictures), -1),
                    )
                order = found.argsort(stable=True).tolist()
                rows.append([image, pictures[order]])
                told = [f"{kinds[k]}: {found[k]:.2f}\n{label}: {says[k]}" for k in order]
                texts.append(
                    [f"{picker.captions[index] or 'the image'}\n{label}: {own[label]}", *told]
                )
            return sheet(*rows), texts

        return runs, draw

    note = (
        f"Every change has the L2 length {far:.3g}, but the other picture. Under each: what it "
        "is, its distance in the representation's own length, and the class that this network "
        f"sees. Against a network: {steps} steps of normalised gradient descent, away from the "
        "image."
    )
    live = live_of(plan, [*models], [""] * (len(kinds) + 1), about=DISTANCE.about, note=note)
    return Demo("Distance", [picker], switched(live, models, picker.pixels, positions))
