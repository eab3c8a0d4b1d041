"""A picker of components, each shown by its feature visualization."""

from collections.abc import Iterable

import numpy
import torch
from torch import Tensor

from nbhelpers.networks.model import Model
from nbhelpers.objectives import activate
from nbhelpers.optimize import Solver, Step, box, descend, l2_ball
from nbhelpers.representation import represent
from nbhelpers.types import Features, Images, Indices, indices, seeded, whole
from nbhelpers.widgets.image_picker import ImagePicker
from nbhelpers.widgets.parts import Models, noise_like, previewed
from nbhelpers.widgets.settings import Settings


class Atlas:
    """A picker of components, grouped by network, with their activations over a set of images.

    Args:
        models: networks by name, in display order.
        images: (n, c, h, w), the set; its image size is used for the visualizations.
        components: indices, or a number of random ones, for each network.
        settings, steps: of the visualizations.
        seed: of noise and components.
    """

    def __init__(
        self,
        models: Models,
        images: Images,
        components: Indices,
        *,
        settings: Settings,
        steps: int,
        seed: int,
    ):
        width = min(model.components for model in models.values())
        self.models, self.components = models, chosen_components(components, width, seed)
        indices(self.components, "components")  # raises if empty
        self.features = {label: represent(model, images) for label, model in models.items()}
        start = noise_like(images, 1, seed).expand(len(self.components), -1, -1, -1)
        made = {}
        for label, model in models.items():
            *_, last = raised(
                model, torch.tensor(self.components), start, settings=settings, steps=steps
            )
            made[f"{label} network"] = last.images.cpu()
        names = [f"{i}" for _ in models for i in self.components]
        columns = min(8, len(self.components))
        self.picker = ImagePicker(
            made, captions=names, label="Choose a component", selected=0, columns=columns
        )

    def chosen(self, index: int) -> dict[str, tuple[int, str]]:
        """Each network's component and its label: the picked one, or its best correlate."""
        place, k = divmod(index, len(self.components))
        own, i = list(self.models)[place], self.components[k]
        wanted = _standard(self.features[own][:, i : i + 1])
        chosen = {}
        for label, features in self.features.items():
            alike = (_standard(features) * wanted).mean(0)
            best = i if label == own else int(alike.argmax())
            text = f"component {best}" + ("" if label == own else f" (r {alike[best]:.2f})")
            chosen[label] = (best, text)
        return chosen


def chosen_components(components: Indices, width: int, seed: int) -> list[int]:
    """The given indices; for a single number, as many random ones below `width`."""
    if numpy.ndim(components):
        return indices(components, "components", below=width).tolist() if len(components) else []  # type: ignore[arg-type]
    count = whole(components, "components", least=0)  # type: ignore[arg-type]
    return torch.randperm(width, generator=seeded(seed))[:count].tolist()


def raised(
    model: Model,
    component: int | Tensor,
    start: Images,
    *,
    settings: Settings,
    steps: int,
    ceiling: Tensor | None = None,
    radius: float | None = None,
) -> Iterable[Step]:
    """Gradient ascent on a component of the averaged representation: one for all images or each."""
    start = start.to(model.device)
    project = box if radius is None else l2_ball(start, radius)
    goal, step_size = activate(component, ceiling=ceiling), settings.step(steps, start)
    yield from previewed(start, steps)
    yield from descend(
        model.representation,
        goal,
        start,
        steps=steps,
        solver=Solver(step_size=step_size),
        project=project,
    )


def _standard(features: Features) -> Features:
    return (features - features.mean(0)) / features.std(0, correction=0).clamp_min(1e-6)
