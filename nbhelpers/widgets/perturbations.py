"""The demo of distances: perturbations of equal length, sorted by each network's distance."""

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
    """Sort perturbations of equal L2 norm by each network's distance.

    One is optimised against each network. The null is another picture, of the same class if there
    is one.

    Args:
        models, images, labels, positions: as in `inversion`.
        length: L2 norm of the perturbations, pixel units; None: 2 at 32 pixels, scaled with the
            side.
        steps: gradient steps against a network; None: 30, 25 above 64 pixels.
        seed: of noise and covered areas.
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
        """Another picture of the same class; without one, the next picture."""
        name, ahead = picker.captions[index], [*range(index + 1, len(images)), *range(index)]
        same = [k for k in ahead if k < len(images) and name and names[k] == name]
        return picker.pixels[(same or [(index + 1) % len(images)])[0]][None]

    def changed(index: int) -> Images:
        """The perturbations without a network, and the other picture."""
        image = picker.pixels[index : index + 1]
        coloured = image.expand(-1, 3, -1, -1)
        plain = [
            distort_to(coloured, kind, far, seed=seed)[:, : image.shape[1]] for kind in DISTORTIONS
        ]
        return torch.cat([*plain, another(index)])

    def plan(index: int, mode: int = 1) -> tuple[list[Iterable[Step]], Draw]:
        image = picker.pixels[index : index + 1]
        fixed = changed(index)
        # the gradient is zero at the image itself
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
                f, classes = form(model, mode), seen(model, pictures)
                with torch.no_grad():
                    found = distance(
                        f(pictures.to(model.device)),
                        f(image.to(model.device)).expand(len(pictures), -1),
                    )
                order = found.argsort(stable=True).tolist()
                rows.append([image, pictures[order]])
                under = [f"{kinds[k]}: {found[k]:.2f}\n{label}: {classes[k]}" for k in order]
                texts.append(
                    [f"{picker.captions[index] or 'the image'}\n{label}: {own[label]}", *under]
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
