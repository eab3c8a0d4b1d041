"""The demo of inpainting: a hole, filled from the representation outside it."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from nbhelpers.networks.regions import region
from nbhelpers.objectives import match
from nbhelpers.optimize import Solver, Step, descend, within
from nbhelpers.types import Images
from nbhelpers.widgets.depths import judges_of
from nbhelpers.widgets.hole_picker import HolePicker
from nbhelpers.widgets.live import Captions, Demo
from nbhelpers.widgets.parts import (
    Draw,
    Models,
    Names,
    Others,
    Pictures,
    live_of,
    noise_like,
    opened,
    picker_of,
    preview,
    previewed,
    robust_first,
    seen,
    sheet,
)
from nbhelpers.widgets.settings import FILLING

RIM = 2  # pixels around the hole; their mean colour is the null


def inpainting(
    models: Models,
    images: Pictures,
    labels: Names = None,
    *,
    others: Others | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> Demo:
    """Fill a brushed hole by matching the representation outside it.

    Captions: PSNR in the hole, and the *other* network's prediction. The null is the mean colour
    of the hole's rim.

    Args:
        models, images, labels, others: as in `inversion`.
        steps: gradient steps; None: 60, 25 above 64 pixels.
        seed: of the start, noise in the hole.

    Raises:
        ValueError: as in `inversion`.
    """
    models = robust_first(models)
    images, labels = opened(models, images, labels)
    steps = FILLING.steps_for(images, steps)
    picker = picker_of(models, images, labels, others=others, columns=6)
    hole, judges = HolePicker(picker), judges_of(models)
    grain = noise_like(picker.pixels, 1, seed)

    def plan(index: int, number: int) -> tuple[list[Iterable[Step]], Draw]:
        image, mask = picker.pixels[index : index + 1], hole.holes[number].float()
        begin, null = torch.where(mask > 0, grain, image), rim_filled(image, mask)
        runs: list[Iterable[Step]] = []
        for model in models.values():
            target, start = image.to(model.device), begin.to(model.device)
            runs.append(
                _filling(region(model, 1 - mask, positions=True), target, start, mask, steps)
            )

        def draw(now: Sequence[Step]) -> tuple[Tensor, Captions]:
            made = [step.images.cpu() for step in now]
            texts = [""] * (len(made) + 1)
            if not preview(now[0]):
                texts = [
                    f"{hole_psnr(one, image, mask):.1f} dB in the hole" for one in (*made, null)
                ]
                for k, (label, one) in enumerate(zip(models, made, strict=True)):
                    judge, other = judges[label]
                    texts[k] += f"\n{judge}: {seen(other, one)[0]}"
            return sheet([*made, null]), [texts]

        return runs, draw

    note = (
        f"{steps} steps of normalised gradient descent from noise in the hole; all other pixels "
        "stay as they are. dB: PSNR against the original."
    )
    columns = [*models, "rim's mean colour"]
    live = live_of(plan, [""], columns, about=FILLING.about, note=note)
    return Demo("Inpainting", [picker, hole], live)


def hole_psnr(images: Images, original: Images, mask: Tensor) -> float:
    """PSNR in the hole, dB; images (1, c, h, w) in [0, 1], mask (h, w), 1 in the hole."""
    inside = (images - original).square()[..., mask > 0]
    return -10 * inside.mean().clamp_min(1e-10).log10().item()


def rim_filled(image: Images, mask: Tensor) -> Images:
    """The image, (1, c, h, w), with the rim's mean colour in the hole; mask (h, w), 1 in it."""
    grown = functional.max_pool2d(mask[None, None], 2 * RIM + 1, stride=1, padding=RIM)[0, 0]
    rim = (grown > 0) & (mask == 0)
    colour = image[..., rim].mean(-1)[..., None, None]
    return torch.where(mask > 0, colour, image)


def _filling(f, target: Images, start: Images, mask: Tensor, steps: int) -> Iterable[Step]:
    yield from previewed(start, steps)
    with torch.no_grad():
        goal = match(f(target))
    solver = Solver(step_size=FILLING.step(steps, start))
    # centred on the original, which equals the start outside the hole
    project = within(mask.to(start), target)
    yield from descend(f, goal, start, steps=steps, solver=solver, project=project)
