"""The blog's demos, alive: pick, and see every network's answer form. No priors anywhere.

Each takes the networks by name, such as {"standard": …, "robust": …}, and images with their classes. A plan, given
the picked indices, returns the optimisations to run side by side and how to draw a moment of them.
Source: the interactive figures of Engstrom et al., arXiv:1906.00945.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from nbhelpers.model import Model
from nbhelpers.networks.series import series
from nbhelpers.objectives import activate, match
from nbhelpers.optimize import Step, box, descend, l2_ball
from nbhelpers.representation import contributions, interpolate, noise, predict, represent
from nbhelpers.types import Images, Labels
from nbhelpers.widgets.image_picker import ImagePicker
from nbhelpers.widgets.live import Captions, Demo, Frame, Live

Models = Mapping[str, Model]


Draw = Callable[[Sequence[Step]], tuple[Tensor, Captions]]


Plan = Callable[..., tuple[list[Iterable[Step]], Draw]]


def inversion(
    models: Models,
    images: Images,
    labels: Labels | None = None,
    *,
    others: Mapping[str, Images] | None = None,
    captions: Sequence[str] = (),
    steps: int = 100,
    seed: int = 0,
) -> Demo:
    """Pick an image; see it rebuilt, from noise, from its representation in each network.

    Args:
        models: networks by name.
        images: (n, 3, h, w) of the test set, pixels in [0, 1].
        labels: (n,) their classes, for the captions.
        others: more images of the same size under their titles, such as "out of distribution".
        captions: one per image of all groups, in place of the class names.
        steps: gradient steps.
        seed: of the noise to start from.
    """
    picker = _picker(models, images, labels, others=others, captions=captions)

    def draw(target: Images, now: Sequence[Step]) -> tuple[Tensor, Captions]:
        return _sheet([target, *_shown(now)]), [["", *_matches(models, now)]]

    plan = _inverted(models, picker, draw, steps=steps, seed=seed)
    live = _live(plan, [""], ["original", *models], steps=steps, start="noise")
    return Demo("Inversion", [picker], live)


def epsilon_series(
    models: Models | str,
    images: Images,
    labels: Labels | None = None,
    *,
    others: Mapping[str, Images] | None = None,
    captions: Sequence[str] = (),
    steps: int = 100,
    seed: int = 0,
) -> Demo:
    """Pick an image; see it rebuilt by networks trained at several ε, with a slider over them.

    Args:
        models: by ε in rising order, such as {"0": …, "0.25": …, "0.5": …}; or the name of one, for its `series`.
        images, labels, others, captions, steps, seed: as in `inversion`.
    """
    models = series(models) if isinstance(models, str) else models
    picker = _picker(models, images, labels, others=others, captions=captions)

    def draw(target: Images, now: Sequence[Step]) -> tuple[Tensor, Captions]:
        return _sheet([target] * len(now), _shown(now)), [[""] * len(now), _matches(models, now)]

    plan = _inverted(models, picker, draw, steps=steps, seed=seed)
    rows = ["original", "reconstruction"]
    live = _live(plan, rows, list(models), slider="trained with ε =", at=len(models) - 1, steps=steps, start="noise")
    return Demo("Inversion by training radius ε", [picker], live)


def brittleness(
    models: Models,
    images: Images,
    labels: Labels | None = None,
    *,
    radius: float = 1.0,
    captions: Sequence[str] = (),
    steps: int = 100,
) -> Demo:
    """Pick a source and a target; see how near each network's source can be moved to the target's representation.

    Args:
        models, images, labels, captions, steps: as in `inversion`.
        radius: bound on the source's change, L2 over the image, pixel units.
    """
    sources, targets = _pair(models, images, labels, captions, "Source", "Target")

    def plan(first: int, second: int) -> tuple[list[Iterable[Step]], Draw]:
        source, target = sources.pixels[first : first + 1], targets.pixels[second : second + 1]

        def draw(now: Sequence[Step]) -> tuple[Tensor, Captions]:
            moved = [float(torch.linalg.vector_norm(step.images.cpu() - source)) for step in now]
            texts = [f"{text}\nmoved by {far:.2f}" for text, far in zip(_matches(models, now), moved, strict=True)]
            return _sheet([source, *_shown(now), target]), [["", *texts, ""]]

        return [_match(model, target, source, steps, radius=radius) for model in models.values()], draw

    columns = ["source", *(f"{label}, moved" for label in models), "target"]
    start = f"the source, inside an L2 ball of radius {radius:g}"
    live = _live(plan, [""], columns, steps=steps, start=start)
    return Demo("Brittleness", [sources, targets], live)


def interpolation(
    models: Models,
    images: Images,
    labels: Labels | None = None,
    *,
    points: int = 7,
    captions: Sequence[str] = (),
    steps: int = 60,
) -> Demo:
    """Pick a source and a destination; see images on the straight line between their representations.

    Args:
        models, images, labels, captions, steps: as in `inversion`.
        points: of the strip, both ends included.
    """
    sources, targets = _pair(models, images, labels, captions, "Source", "Destination")
    amounts = torch.linspace(0, 1, points)

    def plan(first: int, second: int) -> tuple[list[Iterable[Step]], Draw]:
        mixes = interpolate(sources.pixels[first], targets.pixels[second], amounts)

        def run(model: Model) -> Iterable[Step]:
            with torch.no_grad():
                ends = model.representation(mixes[[0, -1]].to(model.device))
            goal = match(interpolate(ends[0], ends[1], amounts))
            return descend(model.representation, goal, mixes.to(model.device), steps=steps)

        def draw(now: Sequence[Step]) -> tuple[Tensor, Captions]:
            seen = [[f"{label}: {name}" for name in _seen(model, mixes)] for label, model in models.items()]
            mixed = ["\n".join(names) for names in zip(*seen, strict=True)]
            texts = [_matches({label: models[label]}, [step]) for label, step in zip(models, now, strict=True)]
            return _sheet([mixes], *([step.images] for step in now)), [mixed, *texts]

        return [run(model) for model in models.values()], draw

    rows, columns = ["mixed pixels", *models], [f"{amount:.2f}" for amount in amounts]
    live = _live(plan, rows, columns, slider="λ =", at=points // 2, steps=steps, start="the mixed pixels")
    return Demo("Interpolation", [sources, targets], live)


def feature_visualization(
    models: Models,
    images: Images,
    labels: Labels | None = None,
    *,
    components: int | Sequence[int] = 8,
    k: int = 5,
    steps: int = 60,
    seed: int = 0,
) -> Demo:
    """Pick a component; see images made to activate it, and those of the set that do so most and least.

    Beside a network's component stands the one of each other network that correlates with it most over the set.

    Args:
        models, labels, steps: as in `inversion`.
        images: (n, 3, h, w), the set to rank.
        components: their indices, or how many to draw by the seed, for each network.
        k: images of each kind, if the set has so many; of the starts all but the last (an image of the set) are noise.
        seed: of noise and components.
    """
    k = min(k, len(images))
    atlas = _Atlas(models, images, components, steps=steps, seed=seed)
    starts = torch.cat(
        [noise(max(k - 1, 1), size=tuple(images.shape[2:]), channels=images.shape[1], seed=seed), images[:1]]
    )[:k]

    def plan(index: int) -> tuple[list[Iterable[Step]], Draw]:
        chosen = atlas.chosen(index)
        rank = {label: atlas.features[label][:, i].argsort(stable=True) for label, (i, _) in chosen.items()}

        def draw(now: Sequence[Step]) -> tuple[Tensor, Captions]:
            # Row by row, the networks beside each other: made, highest, lowest.
            texts = [[f"{value:.2f}" for value in (-step.losses).tolist()] for step in now]
            for (_, text), line in zip(chosen.values(), texts, strict=True):
                line[0] += "\n" + text.replace(", ", "\n")
            rows = _shown(now)
            for end in (1, 0):
                for label, (i, _) in chosen.items():
                    which = (rank[label].flip(0) if end else rank[label])[:k]
                    values, names = atlas.features[label][which, i].tolist(), _names(models, labels, which)
                    texts.append([f"{value:.2f}\n{name}" for value, name in zip(values, names, strict=True)])
                    rows.append(images[which])
            return _sheet(*([row] for row in rows)), texts

        return [_activate(models[label], i, starts, steps) for label, (i, _) in chosen.items()], draw

    rows = [f"{label}: {what}" for what in ("made", "highest", "lowest") for label in models]
    live = _live(plan, rows, [""] * k, steps=steps, start="noise and an image")
    return Demo("Feature visualization", [atlas.picker], live)


def feature_manipulation(
    models: Models,
    images: Images,
    labels: Labels | None = None,
    *,
    components: int | Sequence[int] = 6,
    sources: int = 12,
    percentiles: Sequence[float] = (50, 75, 90, 99, 100),
    steps: int = 60,
    seed: int = 0,
) -> Demo:
    """Pick a component and a source image; see the feature added to it, with a slider over the amount.

    Args:
        models, labels, components, steps, seed: as in `feature_visualization`.
        images: (n, 3, h, w), the set that gives the amounts their meaning.
        sources: the first so many images can be picked.
        percentiles: amounts, as percentiles of the component's activation over the set.
    """
    atlas = _Atlas(models, images, components, steps=steps, seed=seed)
    picker = _picker(models, images[:sources], None if labels is None else labels[:sources], label="Source", columns=6)

    def plan(index: int, source: int) -> tuple[list[Iterable[Step]], Draw]:
        chosen = atlas.chosen(index)
        start = picker.pixels[source : source + 1].expand(len(percentiles), -1, -1, -1)

        def run(label: str) -> Iterable[Step]:
            values = atlas.features[label][:, chosen[label][0]]
            ceiling = torch.quantile(values, torch.tensor(percentiles, dtype=values.dtype) / 100)
            return _activate(models[label], chosen[label][0], start, steps, ceiling=ceiling)

        def draw(now: Sequence[Step]) -> tuple[Tensor, Captions]:
            texts = [
                [
                    f"activation {-loss:.2f}\nseen as {name}\n{text}"
                    for loss, name in zip(step.losses.tolist(), _seen(models[label], step.images), strict=True)
                ]
                for (label, (_, text)), step in zip(chosen.items(), now, strict=True)
            ]
            return _sheet([start], *([step.images] for step in now)), [[""] * len(percentiles), *texts]

        return [run(label) for label in chosen], draw

    columns = [f"{p:g} %" if p < 100 else "max" for p in percentiles]
    live = _live(
        plan,
        ["source", *models],
        columns,
        slider="activation raised to",
        at=len(columns) - 1,
        steps=steps,
        start="the source",
    )
    return Demo("Feature manipulation", [atlas.picker, picker], live)


def misclassification(
    models: Models,
    images: Images,
    labels: Labels,
    *,
    top: int = 3,
    show: int = 16,
    steps: int = 60,
    seed: int = 0,
) -> Demo:
    """Pick an image that every network gets wrong; see the components that speak most for the error turned up.

    Args:
        models, steps: as in `inversion`.
        images, labels: (n, 3, h, w) and (n,), among which errors are looked for.
        top: components, by their contribution to the wrong class's logit.
        show: at most so many images.
        seed: of the random component beside them, the control.

    Raises:
        ValueError: no image is wrong for every network.
    """
    wrong = (
        torch.stack([predict(model, images) != labels.cpu() for model in models.values()]).all(0).nonzero()[:show, 0]
    )
    if not len(wrong):
        raise ValueError(f"images: every one of {len(images)} is right for one of {list(models)}; give more images")
    picker = _picker(models, images[wrong], labels[wrong], label="Choose a misclassified image")

    def plan(index: int) -> tuple[list[Iterable[Step]], Draw]:
        image = picker.pixels[index : index + 1]
        start = image.expand(top + 1, -1, -1, -1)
        before, chosen = [], []
        for model in models.values():
            seen = predict(model, image)
            best = contributions(model, image.to(model.device), seen)[0].topk(top).indices.cpu()
            control = torch.randint(model.components, (1,), generator=torch.Generator().manual_seed(seed))
            before.append(model.classes[int(seen)])
            chosen.append(torch.cat([best, control]))

        def draw(now: Sequence[Step]) -> tuple[Tensor, Captions]:
            texts = [
                [
                    f"component {i} at {-loss:.2f}\n{old} → {name}"
                    for i, loss, name in zip(
                        parts.tolist(), step.losses.tolist(), _seen(model, step.images), strict=True
                    )
                ]
                for model, old, parts, step in zip(models.values(), before, chosen, now, strict=True)
            ]
            return _sheet([start], *([step.images] for step in now)), [[""] * (top + 1), *texts]

        return [
            _activate(model, parts, start, steps) for model, parts in zip(models.values(), chosen, strict=True)
        ], draw

    columns = [*(f"top {k + 1}" for k in range(top)), "random"]
    live = _live(plan, ["original", *models], columns, slider="component", steps=steps, start="the image")
    return Demo("Misclassification", [picker], live)


class _Atlas:
    """Components to pick from, each shown as what activates it from noise."""

    def __init__(self, models: Models, images: Images, components: int | Sequence[int], *, steps: int, seed: int):
        if isinstance(components, int):
            width = min(model.components for model in models.values())
            components = torch.randperm(width, generator=torch.Generator().manual_seed(seed))[:components].tolist()
        self.models, self.components = models, list(components)
        self.features = {label: represent(model, images) for label, model in models.items()}
        start = noise(1, size=tuple(images.shape[2:]), channels=images.shape[1], seed=seed).expand(
            len(components), -1, -1, -1
        )
        made = {}
        for label, model in models.items():
            *_, last = _activate(model, torch.tensor(self.components), start, steps)
            made[f"{label} network"] = last.images.cpu()
        names = [f"{i}" for _ in models for i in self.components]
        self.picker = ImagePicker(
            made,
            captions=names,
            label="Component",
            selected=len(names) - len(components),
            columns=min(8, len(components)),
        )

    def chosen(self, index: int) -> dict[str, tuple[int, str]]:
        """For each network its component, the picked one or the one most like it, and how to call it."""
        place, k = divmod(index, len(self.components))
        own, i = list(self.models)[place], self.components[k]
        wanted = _standard(self.features[own][:, i : i + 1])
        chosen = {}
        for label, features in self.features.items():
            alike = (_standard(features) * wanted).mean(0)
            best = i if label == own else int(alike.argmax())
            chosen[label] = (best, f"no. {best}" + ("" if label == own else f", r = {alike[best]:.2f}"))
        return chosen


def _standard(features: Tensor) -> Tensor:
    return (features - features.mean(0)) / features.std(0, correction=0).clamp_min(1e-6)


def _live(
    plan: Plan,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    steps: int,
    start: str,
    slider: str = "",
    at: int = 0,
) -> Live:
    def job(*pick: int) -> Iterator[Frame]:
        runs, draw = plan(*pick)
        for now in zip(*runs, strict=True):  # in step, so that the networks' pictures form side by side
            yield Frame(now[0].index, now[0].total, partial(draw, now))

    note = f"{steps} steps of normalised gradient descent from {start}; momentum, decaying step size, no image prior."
    live = Live(job, rows=rows, columns=columns, slider=slider, note=note)
    live.at = at
    return live


def _picker(
    models: Models,
    images: Images,
    labels: Labels | None,
    *,
    others: Mapping[str, Images] | None = None,
    captions: Sequence[str] = (),
    label: str = "Choose an image",
    selected: int = 0,
    columns: int = 8,
) -> ImagePicker:
    others = others or {}
    names = list(captions) or _names(models, labels, range(len(images)))
    if not captions:
        names += ["" for batch in others.values() for _ in batch]
    groups = {"test set": images, **others}
    return ImagePicker(groups, captions=names, label=label, selected=selected, columns=columns, upload=True)


def _pair(
    models: Models, images: Images, labels: Labels | None, captions: Sequence[str], first: str, second: str
) -> tuple[ImagePicker, ImagePicker]:
    one, two = (
        _picker(models, images, labels, captions=captions, label=label, selected=k, columns=6)
        for k, label in enumerate((first, second))
    )
    return one, two


def _inverted(
    models: Models,
    picker: ImagePicker,
    draw: Callable[[Images, Sequence[Step]], tuple[Tensor, Captions]],
    *,
    steps: int,
    seed: int,
) -> Plan:
    def plan(index: int) -> tuple[list[Iterable[Step]], Draw]:
        target = picker.pixels[index : index + 1]
        start = noise(1, size=tuple(target.shape[2:]), channels=target.shape[1], seed=seed)
        return [_match(model, target, start, steps) for model in models.values()], partial(draw, target)

    return plan


def _match(model: Model, target: Images, start: Images, steps: int, *, radius: float | None = None) -> Iterable[Step]:
    target, start = target.to(model.device), start.to(model.device)
    with torch.no_grad():
        goal = match(model.representation(target))
    project = box if radius is None else l2_ball(start, radius)
    return descend(model.representation, goal, start, steps=steps, project=project)


def _activate(
    model: Model, component: int | Tensor, start: Images, steps: int, *, ceiling: Tensor | None = None
) -> Iterable[Step]:
    goal = activate(component, ceiling=ceiling)
    # Not the default, which is longer for few steps: raised faster, drawings turn into saturated stencils.
    step_size = 0.2 * start.shape[-1] / 32
    return descend(model.representation, goal, start.to(model.device), steps=steps, step_size=step_size)


def _sheet(*rows: Sequence[Images]) -> Tensor:
    return torch.stack([torch.cat([part.cpu() for part in row]) for row in rows])


def _shown(now: Sequence[Step]) -> list[Images]:
    return [step.images for step in now]


def _seen(model: Model, images: Images) -> list[str]:
    with torch.no_grad():
        return [model.classes[k] for k in model(images.to(model.device)).argmax(1).tolist()]


def _matches(models: Models, now: Sequence[Step]) -> list[str]:
    """Distance and class of every picture, network by network."""
    return [
        f"distance {loss:.2f}\nseen as {name}"
        for model, step in zip(models.values(), now, strict=True)
        for loss, name in zip(step.losses.tolist(), _seen(model, step.images), strict=True)
    ]


def _names(models: Models, labels: Labels | None, which: Iterable[int]) -> list[str]:
    classes = next(iter(models.values())).classes
    return ["" if labels is None else classes[int(labels[int(k)])] for k in which]
