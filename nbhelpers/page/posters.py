"""One picture per demo, computed beforehand: what the page shows before its engine runs, without
one, and in print. The numbers of each experiment, for these and for `demos.js`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nbhelpers.networks.model import Model
from nbhelpers.networks.regions import region
from nbhelpers.objectives import activate, leave, match
from nbhelpers.optimize import Solver, box, first_step, l2_ball, minimize, relative_diagonal, within
from nbhelpers.page.graphs import layer_of
from nbhelpers.page.pictures import Pictures
from nbhelpers.representation import contributions, interpolate, noise, predict, represent
from nbhelpers.types import Features, Images, Objective, Projection
from nbhelpers.widgets.settings import (
    BRITTLENESS,
    CLASSES,
    DISTANCE,
    FILLING,
    INTERPOLATION,
    INVERSION,
    LAYERS,
    MISCLASSIFICATION,
    PAINTING,
    VISUALIZATION,
)

Models = Mapping[str, Model]
# Steps in the browser, length of the first for 32-pixel images, steps which that length is for,
# and the ball's radius for 32-pixel images.
_NUMBERS: dict[str, tuple[int, float, int, float | None]] = {
    "inversion": (100, INVERSION.step_size, INVERSION.steps, None),
    "layers": (LAYERS.steps, LAYERS.step_size, LAYERS.steps, None),
    "classes": (CLASSES.live, CLASSES.step_size, CLASSES.steps, None),
    "features": (
        VISUALIZATION.live,
        VISUALIZATION.step_size,
        VISUALIZATION.steps,
        MISCLASSIFICATION.radius,
    ),
    "paint": (PAINTING.live, PAINTING.step_size, PAINTING.steps, PAINTING.radius),
    "fill": (FILLING.live, FILLING.step_size, FILLING.steps, None),
    "between": (INTERPOLATION.live, INTERPOLATION.step_size, INTERPOLATION.steps, None),
    "mistakes": (
        MISCLASSIFICATION.live,
        MISCLASSIFICATION.step_size,
        MISCLASSIFICATION.steps,
        MISCLASSIFICATION.radius,
    ),
    "brittle": (60, BRITTLENESS.step_size, BRITTLENESS.steps, BRITTLENESS.radius),
    "distance": (DISTANCE.live, DISTANCE.step_size, DISTANCE.steps, DISTANCE.radius),
    "recognition": (60, INVERSION.step_size, INVERSION.steps, None),
}
STEPS = 25  # of a poster, at most
_SHOWN = 3  # pictures that activate a component most


@dataclass
class Poster:
    """A demo's cells in order, with two lines each."""

    images: list[Tensor] = field(default_factory=list)  # (3, h, w)
    captions: list[list[str]] = field(default_factory=list)

    def add(self, image: Tensor, title: str, line: str = "") -> None:
        self.images.append(image.detach().cpu())
        self.captions.append([title, line])


def settings_of(images: Images) -> dict[str, dict[str, Any]]:
    """Each demo's numbers, radii for images of this size."""
    found = {}
    for name, (steps, size, full, radius) in _NUMBERS.items():
        far = None if radius is None else radius * relative_diagonal(images.shape)
        found[name] = {"steps": steps, "size": size, "full": full, "radius": far}
    return found


class Posters:
    """Computes them: the same searches as in `demos.js`, with fewer steps.

    Args:
        models: networks by label, the robust one first.
        pictures: the film strip; its first two are picked.
        layers: each network's nodes, see `export_network`.
        steps: gradient steps, at most.
    """

    def __init__(
        self, models: Models, pictures: Pictures, layers: list[list[dict]], *, steps: int = STEPS
    ):
        self.models, self.pictures, self.layers, self.steps = models, pictures, layers, steps
        self.settings = settings_of(pictures.images)
        self.first, self.second = (
            pictures.images[k : k + 1] for k in (0, min(1, len(pictures.names) - 1))
        )
        height, width = self.first.shape[-2:]
        self.start = noise(1, size=(height, width))

    def all(self) -> dict[str, Poster]:
        """Every demo's poster, by its id; of mistakes none where no picture is wrong."""
        made = {
            "inversion": self.inversion,
            "layers": self.in_layers,
            "classes": self.classes,
            "features": self.features,
            "paint": self.paint,
            "fill": self.fill,
            "between": self.between,
            "mistakes": self.mistakes,
            "brittle": self.brittle,
            "distance": self.distance,
        }
        if not self.pictures.wrong(list(self.models.values())):
            del made["mistakes"]
        if not all(self.layers):
            del made["layers"]
        return {name: poster() for name, poster in made.items()}

    def inversion(self) -> Poster:
        return self._inverted("inversion", [_form(model) for model in self.models.values()], "")

    def in_layers(self) -> Poster:
        depth = len(self.layers[0]) - 2
        functions = [
            layer_of(model, nodes[depth]["node"])
            for model, nodes in zip(self.models.values(), self.layers, strict=True)
        ]
        return self._inverted("layers", functions, f", layer {depth + 1}")

    def _inverted(self, name: str, functions: Sequence[Callable], note: str) -> Poster:
        poster = Poster()
        poster.add(self.first[0], "Photograph", self.pictures.names[0])
        for (label, model), f in zip(self.models.items(), functions, strict=True):
            found = self._run(name, f, match(_of(f, self.first)), self.start)
            poster.add(found[0], titled(label) + note, prediction_of(label, model, found))
        return poster

    def classes(self) -> Poster:
        poster, labels = Poster(), list(self.models)
        faint = 0.5 + 0.25 * (self.start - 0.5)
        for k, (label, model) in enumerate(self.models.items()):
            found = self._run("classes", model, activate([0]), faint)
            judge = labels[(k + 1) % len(labels)]
            poster.add(
                found[0],
                f"“{model.classes[0]}” of the {label} network",
                prediction_of(judge, self.models[judge], found),
            )
        return poster

    def features(self) -> Poster:
        poster, component = Poster(), selective(next(iter(self.models.values())), self.pictures)
        held = [represent(model, self.pictures.images) for model in self.models.values()]
        for (label, model), values in zip(self.models.items(), held, strict=True):
            found = self._run("features", model.representation, activate([component]), self.start)
            poster.add(found[0], titled(label), f"no. {component}")
            for n in values[:, component].topk(min(_SHOWN, len(values))).indices.tolist():
                poster.add(self.pictures.images[n], self.pictures.names[n])
            component = _alike(held, component)
        return poster

    def paint(self) -> Poster:
        model = next(iter(self.models.values()))
        mask = torch.zeros(self.first.shape[-2:])
        side = mask.shape[0]
        mask[side // 4 : side // 2, side // 4 : -side // 4] = 1
        inside = l2_ball(self.first, self.settings["paint"]["radius"])
        found = self._run(
            "paint",
            region(model, mask),
            activate([0]),
            self.first,
            project=within(mask, self.first, inside=inside),
        )
        poster = Poster()
        poster.add(found[0], "Paint here", "1 stroke")
        poster.add(self.first[0], "Source", self.pictures.names[0])
        return poster

    def fill(self) -> Poster:
        height, width = self.first.shape[-2:]
        hole = torch.zeros(height, width)
        hole[height // 4 : -(height // 4), width // 4 : -(width // 4)] = 1
        hidden, poster = torch.where(hole > 0, self.start, self.first), Poster()
        poster.add(hidden[0], "Draw the hole", self.pictures.names[0])
        for label, model in self.models.items():
            rest = region(model, 1 - hole, positions=True)
            goal = match(_of(rest, self.first))
            found = self._run("fill", rest, goal, hidden, project=within(hole, hidden))
            poster.add(found[0], titled(label), prediction_of(label, model, found))
        return poster

    def between(self) -> Poster:
        poster, amounts = Poster(), torch.tensor([0.0, 0.5, 1.0])
        mixes = interpolate(self.first[0], self.second[0], amounts)
        poster.add(self.first[0], "From", self.pictures.names[0])
        poster.add(mixes[1], "Mixed pixels", "50 % and 50 %")
        for label, model in self.models.items():
            f = _form(model)
            ends = _of(f, mixes[[0, -1]])
            goal = match(interpolate(ends[0], ends[1], amounts[1:2]))
            found = self._run("between", f, goal, mixes[1:2])
            poster.add(found[0], titled(label), prediction_of(label, model, found))
        poster.add(self.second[0], "To", self.pictures.names[min(1, len(self.pictures.names) - 1)])
        return poster

    def mistakes(self) -> Poster:
        poster, k = Poster(), self.pictures.wrong(list(self.models.values()))[0]
        image = self.pictures.images[k : k + 1]
        seen = " · ".join(
            prediction_of(label, model, image) for label, model in self.models.items()
        )
        poster.add(image[0], self.pictures.names[k], seen)
        project = l2_ball(image, self.settings["mistakes"]["radius"])
        for label, model in self.models.items():
            part = contributions(model, image, predict(model, image))[0].argmax()
            goal = activate([int(part)])
            found = self._run("mistakes", model.representation, goal, image, project=project)
            poster.add(found[0], titled(label), prediction_of(label, model, found))
        return poster

    def brittle(self) -> Poster:
        poster = Poster()
        poster.add(self.first[0], "Source", self.pictures.names[0])
        project = l2_ball(self.first, self.settings["brittle"]["radius"])
        for label, model in self.models.items():
            f = _form(model)
            goal = match(_of(f, self.second))
            found = self._run("brittle", f, goal, self.first, project=project)
            poster.add(
                found[0],
                prediction_of(label, model, found),
                f"distance {_loss(f, goal, found):.2f}",
            )
        poster.add(
            self.second[0], "Target", self.pictures.names[min(1, len(self.pictures.names) - 1)]
        )
        return poster

    def distance(self) -> Poster:
        poster, radius = Poster(), self.settings["distance"]["radius"]
        project = l2_ball(self.first, radius)
        push = (self.first + self.start - 0.5).clamp(0, 1)
        found = {}
        for label, model in self.models.items():
            f = _form(model)
            found[f"against {label}"] = self._run(
                "distance", f, leave(_of(f, self.first)), project(push), project=project
            )
        found["another picture"] = self.second
        for label, model in self.models.items():
            f = _form(model)
            goal = match(_of(f, self.first))
            far = {name: _loss(f, goal, image) for name, image in found.items()}
            poster.add(self.first[0], titled(label), prediction_of(label, model, self.first))
            for name in sorted(far, key=far.__getitem__):
                poster.add(found[name][0], name, f"{far[name]:.2f}")
        return poster

    def _run(
        self,
        name: str,
        f: Callable[[Images], Features],
        goal: Objective,
        start: Images,
        *,
        project: Projection = box,
    ) -> Images:
        own = self.settings[name]
        steps = min(self.steps, own["steps"])
        length = first_step(own["size"], own["full"], steps=steps, shape=start.shape)
        solver = Solver(step_size=length, keep="last")
        return minimize(f, goal, start, steps=steps, solver=solver, project=project).images


def selective(model: Model, pictures: Pictures) -> int:
    """The component that one picture activates most, in standard deviations over all pictures."""
    return int(_standard(represent(model, pictures.images)).amax(0).argmax())


def titled(label: str) -> str:
    """A network's label as a cell's title."""
    return f"{label[0].upper()}{label[1:]} network"


def prediction_of(label: str, model: Model, image: Images) -> str:
    """A network's prediction, marked as its own."""
    return f"{label}: {model.classes[int(predict(model, image)[0])]}"


def _form(model: Model) -> Callable[[Images], Features]:
    return lambda images: model.representation(images, positions=True)


def _of(f: Callable[[Images], Features], images: Images) -> Features:
    with torch.no_grad():
        return f(images)


def _loss(f: Callable[[Images], Features], goal: Objective, image: Images) -> float:
    with torch.no_grad():
        return float(goal(f(image))[0])


def _alike(held: list[Features], component: int) -> int:
    """The last network's component that correlates most with one of the first's."""
    wanted, others = (
        _standard(values) for values in (held[0][:, component : component + 1], held[-1])
    )
    return int((others * wanted).mean(0).argmax())


def _standard(values: Features) -> Features:
    return (values - values.mean(0)) / values.std(0, correction=0).clamp_min(1e-6)
