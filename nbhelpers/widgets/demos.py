"""Live demos of the blog's figures, without image priors.

Each takes networks by name, such as {"robust": …, "standard": …}, and images with their classes.
Defaults are the notebooks' (`settings`).
Source: the interactive figures of Engstrom et al., arXiv:1906.00945.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from nbhelpers.networks.radii import series
from nbhelpers.optimize import Step
from nbhelpers.representation import contributions, interpolate, predict
from nbhelpers.types import Indices, Labels
from nbhelpers.widgets.atlas import Atlas, raised
from nbhelpers.widgets.inverting import epsilon_series, inversion
from nbhelpers.widgets.live import Captions, Demo
from nbhelpers.widgets.parts import (
    Draw,
    Models,
    Names,
    Pictures,
    captions_of,
    fitted,
    form,
    labelled,
    live_of,
    matched,
    matches,
    mixed,
    noise_like,
    note_of,
    opened,
    pair_of,
    picker_of,
    preview,
    robust_first,
    seen,
    sheet,
    step_captions,
    switched,
)
from nbhelpers.widgets.settings import (
    BRITTLENESS,
    INTERPOLATION,
    MANIPULATION,
    MISCLASSIFICATION,
    PERCENTILES,
    SHOWN,
    VISUALIZATION,
)

__all__ = [
    "brittleness",
    "epsilon_series",
    "feature_manipulation",
    "feature_visualization",
    "interpolation",
    "inversion",
    "misclassification",
    "series",
]


def brittleness(
    models: Models,
    images: Pictures,
    labels: Names = None,
    *,
    radius: float | None = None,
    positions: bool = True,
    steps: int | None = None,
) -> Demo:
    """Perturb a source, in an L2 ball, towards a target's representation in each network.

    Args:
        models, images, labels, positions, steps: as in `inversion`.
        radius: of the ball, pixel units; None: 1 at 32 pixels, scaled with the side.
    """
    models = robust_first(models)
    images, labels = opened(models, images, labels)
    steps = BRITTLENESS.steps_for(images, steps)
    sources, targets = pair_of(models, images, labels, "Choose a source", "Choose a target")
    bound = BRITTLENESS.ball(sources.pixels, radius)

    def plan(first: int, second: int, mode: int = 1) -> tuple[list[Iterable[Step]], Draw]:
        source, target = sources.pixels[first : first + 1], targets.pixels[second : second + 1]
        runs = []
        for model in models.values():
            f, begin = form(model, mode), source.to(model.device)
            runs.append(
                matched(
                    f,
                    target.to(model.device),
                    begin,
                    settings=BRITTLENESS,
                    steps=steps,
                    radius=bound,
                )
            )

        def draw(now: Sequence[Step]) -> tuple[Tensor, Captions]:
            moved = [float(torch.linalg.vector_norm(step.images.cpu() - source)) for step in now]
            texts = [
                text and f"{text}, moved {far:.2f}"
                for text, far in zip(matches(models, now), moved, strict=True)
            ]
            ends = sources.captions[first], targets.captions[second]
            pictures = sheet([source, *(step.images for step in now), target])
            return pictures, [[ends[0], *texts, ends[1]]]

        return runs, draw

    columns = ["source", *(f"{label}, moved" for label in models), "target"]
    note = note_of(steps, f"the source, inside an L2 ball of radius {bound:.3g}")
    live = live_of(plan, [""], columns, about=BRITTLENESS.about, note=note)
    return Demo(
        "Brittleness", [sources, targets], switched(live, models, sources.pixels, positions)
    )


def interpolation(
    models: Models,
    images: Pictures,
    labels: Names = None,
    *,
    points: int = 7,
    positions: bool = True,
    steps: int | None = None,
) -> Demo:
    """Invert representations on the line between two images' representations.

    Args:
        models, images, labels, positions, steps: as in `inversion`.
        points: on the line, with both ends.
    """
    models = robust_first(models)
    images, labels = opened(models, images, labels)
    steps = INTERPOLATION.steps_for(images, steps)
    sources, targets = pair_of(models, images, labels, "Choose a source", "Choose a destination")
    amounts = torch.linspace(0, 1, points)

    def plan(first: int, second: int, mode: int = 1) -> tuple[list[Iterable[Step]], Draw]:
        mixes = interpolate(sources.pixels[first], targets.pixels[second], amounts)
        runs: list[Iterable[Step]] = []
        for model in models.values():
            runs.append(
                mixed(
                    form(model, mode),
                    mixes.to(model.device),
                    amounts,
                    settings=INTERPOLATION,
                    steps=steps,
                )
            )
        predicted: list[str] = []

        def draw(now: Sequence[Step]) -> tuple[Tensor, Captions]:
            texts = [
                matches({label: models[label]}, [step])
                for label, step in zip(models, now, strict=True)
            ]
            if not predicted and not preview(now[0]):
                names = [
                    [f"{label}: {name}" for name in seen(model, mixes)]
                    for label, model in models.items()
                ]
                predicted.extend("\n".join(column) for column in zip(*names, strict=True))
            return sheet([mixes], *([step.images] for step in now)), [
                predicted or [""] * points,
                *texts,
            ]

        return runs, draw

    rows, columns = ["mixed pixels", *models], [f"{amount:.2f}" for amount in amounts]
    note = note_of(steps, "the mixed pixels")
    live = live_of(plan, rows, columns, slider="λ =", about=INTERPOLATION.about, note=note)
    live.at = points // 2
    return Demo(
        "Interpolation", [sources, targets], switched(live, models, sources.pixels, positions)
    )


def feature_visualization(
    models: Models,
    images: Pictures,
    labels: Names = None,
    *,
    components: Indices = 8,
    k: int = 5,
    steps: int | None = None,
    seed: int = 0,
) -> Demo:
    """Maximise a component, and show the set's images with its highest and lowest activations.

    Each other network's component is the one with the highest correlation over the set.

    Args:
        models, labels, steps: as in `inversion`.
        images: (n, c, h, w), the set to rank.
        components: indices, or a number of random ones, for each network.
        k: images of each kind, at most; starts are noise, the last one an image of the set.
        seed: of noise and components.
    """
    models = robust_first(models)
    images, labels = opened(models, images, labels)
    images, k = fitted(models, images), min(k, len(images))
    steps = VISUALIZATION.steps_for(images, steps)
    names = captions_of(models, labels, len(images))
    atlas = Atlas(models, images, components, settings=VISUALIZATION, steps=steps, seed=seed)
    starts = torch.cat([noise_like(images, max(k - 1, 1), seed), images[:1].cpu()])[:k]

    def plan(index: int) -> tuple[list[Iterable[Step]], Draw]:
        chosen = atlas.chosen(index)
        rank = {
            label: atlas.features[label][:, i].argsort(stable=True)
            for label, (i, _) in chosen.items()
        }

        def draw(now: Sequence[Step]) -> tuple[Tensor, Captions]:
            # Row by row, the networks beside each other: made, highest, lowest.
            texts = [
                ["" if preview(step) else f"{-loss:.2f}" for loss in step.losses.tolist()]
                for step in now
            ]
            for (_, text), line in zip(chosen.values(), texts, strict=True):
                line[0] += "\n" + text
            rows = [step.images for step in now]
            for end in (1, 0):
                for label, (i, _) in chosen.items():
                    which = (rank[label].flip(0) if end else rank[label])[:k]
                    values = atlas.features[label][which, i].tolist()
                    texts.append(
                        [
                            f"{v:.2f}\n{names[n]}".strip()
                            for v, n in zip(values, which.tolist(), strict=True)
                        ]
                    )
                    rows.append(images[which])
            return sheet(*([row] for row in rows)), texts

        runs = [
            raised(models[label], i, starts, settings=VISUALIZATION, steps=steps)
            for label, (i, _) in chosen.items()
        ]
        return runs, draw

    rows = [
        f"{label}: {what}"
        for what in ("made", "highest in the set", "lowest in the set")
        for label in models
    ]
    note = note_of(steps, "noise and an image")
    live = live_of(
        plan, rows, [""] * k, about=VISUALIZATION.about, note=note + " Numbers are activations."
    )
    return Demo("Feature visualization", [atlas.picker], live)


def feature_manipulation(
    models: Models,
    images: Pictures,
    labels: Names = None,
    *,
    components: Indices = 6,
    sources: int = 12,
    steps: int | None = None,
    seed: int = 0,
) -> Demo:
    """Raise a component in a source image, with a slider over the amount.

    Args:
        models, labels, components, steps, seed: as in `feature_visualization`.
        images: (n, c, h, w), the set for the amounts' percentiles.
        sources: number of images to pick from.
    """
    models = robust_first(models)
    images, labels = opened(models, images, labels)
    images = fitted(models, images)
    steps, names = (
        MANIPULATION.steps_for(images, steps),
        captions_of(models, labels, len(images))[:sources],
    )
    atlas = Atlas(models, images, components, settings=MANIPULATION, steps=steps, seed=seed)
    picker = picker_of(models, images[:sources], names, label="Choose a source", columns=6)

    def ceiling(label: str, i: int) -> Tensor:
        values = atlas.features[label][:, i]
        return torch.quantile(values, torch.tensor(PERCENTILES, dtype=values.dtype) / 100)

    def plan(index: int, source: int) -> tuple[list[Iterable[Step]], Draw]:
        chosen, runs = atlas.chosen(index), []
        start = picker.pixels[source : source + 1].expand(len(PERCENTILES), -1, -1, -1)
        for label, (i, _) in chosen.items():
            end = ceiling(label, i)
            runs.append(
                raised(models[label], i, start, settings=MANIPULATION, steps=steps, ceiling=end)
            )

        def draw(now: Sequence[Step]) -> tuple[Tensor, Captions]:
            texts = [
                step_captions(
                    models[label],
                    step,
                    lambda _, loss, name, label=label, text=text: (
                        f"{label}: {name}\n{text}: {-loss:.2f}"
                    ),
                )
                for (label, (_, text)), step in zip(chosen.items(), now, strict=True)
            ]
            pictures = sheet([start], *([step.images] for step in now))
            return pictures, [[picker.captions[source]] * len(PERCENTILES), *texts]

        return runs, draw

    columns, note = [f"{p:g}" for p in PERCENTILES], note_of(steps, "the source")
    slider = "activation raised to the set's percentile"
    live = live_of(
        plan, ["source", *models], columns, slider=slider, about=MANIPULATION.about, note=note
    )
    live.at, live.fixed = len(columns) - 1, 1
    return Demo("Feature manipulation", [atlas.picker, picker], live)


def misclassification(
    models: Models,
    images: Pictures,
    labels: Labels | None = None,
    *,
    top: int = 3,
    radius: float | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> Demo:
    """Raise, in a misclassified image, the components that contribute most to the error.

    Images are misclassified by all networks; if there are none, by any network.

    Args:
        models, steps: as in `inversion`.
        images, labels: (n, c, h, w) and (n,), −1 if unknown; or an opened set, with None for its
            own labels.
        top: number of components, by contribution to the wrong class's logit.
        radius: L2 bound on the change, pixel units; None: 5.7 at 32 pixels, scaled with the side.
        seed: of the control, a random component.

    Raises:
        ValueError: no image is misclassified, or a label is outside the classes.
    """
    models = robust_first(models)
    images, labels, names = labelled(models, images, labels)
    images = fitted(models, images)
    steps = MISCLASSIFICATION.steps_for(images, steps)
    errs = torch.stack(
        [(predict(model, images) != labels) & (labels >= 0) for model in models.values()]
    )
    all_err = errs.all(0)
    wrong = (all_err if all_err.any() else errs.any(0)).nonzero()[:SHOWN, 0]
    if not len(wrong):
        known = int((labels >= 0).sum())
        message = (
            f"all {known} labelled images are classified correctly by {list(models)}; give more "
            "images"
        )
        raise ValueError(
            f"images: {message if known else 'none has a known label; give some with labels'}"
        )
    picker = picker_of(
        models, images[wrong], [names[k] for k in wrong], label="Choose a misclassified image"
    )
    bound = MISCLASSIFICATION.ball(images, radius)

    def plan(index: int) -> tuple[list[Iterable[Step]], Draw]:
        image = picker.pixels[index : index + 1]
        start = image.expand(top + 1, -1, -1, -1)
        chosen, runs = [], []
        for model in models.values():
            best = (
                contributions(model, image.to(model.device), predict(model, image))[0]
                .topk(top)
                .indices.cpu()
            )
            control = torch.randint(
                model.components, (1,), generator=torch.Generator().manual_seed(seed)
            )
            chosen.append(torch.cat([best, control]))
            runs.append(
                raised(
                    model, chosen[-1], start, settings=MISCLASSIFICATION, steps=steps, radius=bound
                )
            )
        predicted = [f"{label}: {seen(model, image)[0]}" for label, model in models.items()]

        def draw(now: Sequence[Step]) -> tuple[Tensor, Captions]:
            texts = [
                step_captions(
                    m,
                    step,
                    lambda k, loss, name, of=of, label=label: (
                        f"{label}: {name}\ncomponent {of[k]}: {-loss:.2f}"
                    ),
                )
                for (label, m), of, step in zip(models.items(), chosen, now, strict=True)
            ]
            original = "\n".join(filter(None, [picker.captions[index], ", ".join(predicted)]))
            return sheet([start], *([step.images] for step in now)), [
                [original] * (top + 1),
                *texts,
            ]

        return runs, draw

    columns = [*(f"top {k + 1}" for k in range(top)), "random"]
    note = note_of(steps, f"the image, inside an L2 ball of radius {bound:.3g}")
    live = live_of(
        plan,
        ["original", *models],
        columns,
        slider="component",
        about=MISCLASSIFICATION.about,
        note=note,
    )
    live.buttons, live.fixed = True, 1
    return Demo("Misclassification", [picker], live)
