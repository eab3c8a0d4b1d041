"""How good, and how robust, a classifier is. Usage: python -m nbhelpers.evaluate NAME_OR_PATH [--quick]"""

import argparse
import dataclasses
import datetime
import functools
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from nbhelpers import checkpoints
from nbhelpers.data import class_names, count_images, load_images, random_indices
from nbhelpers.models import Model, load_model
from nbhelpers.objectives import leave, margin, misclassify
from nbhelpers.optimize import Result, l2_ball, minimize
from nbhelpers.types import Features, Images, Labels, Objective, PerImage

# The labelled images that are at hand for a network trained on a data set.
AT_HAND = {"cifar10": "cifar10-sample", "imagenet": "imagenet-val", "restricted-imagenet": "restricted-imagenet-val"}


def accuracy(model: Model, images: Images, labels: Labels, *, batch_size: int = 128) -> float:
    """Percentage of images that get their label.

    Raises:
        ValueError: labels are unknown (-1) or outside the model's classes.
    """
    if not len(labels) or int(labels.min()) < 0 or int(labels.max()) >= len(model.classes):
        raise ValueError(f"labels: wanted 0 to {len(model.classes) - 1}, one per image; is it this model's data set?")
    parts = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    with torch.no_grad():
        right = [(model(x.to(model.device)).argmax(1).cpu() == y.cpu()).sum() for x, y in parts]
    return 100 * int(sum(right)) / len(labels)


def attack(
    model: Model, images: Images, labels: Labels, eps: float, *, steps: int = 20, restarts: int = 1, seed: int = 0
) -> Tensor:
    """Which images some point within `eps` (L2, pixel units) is known to misclassify, (n,) of bool: PGD on the logits.

    Each restart begins at a random point of the ball, and only where all before it failed. The first, third and so on
    climb the cross-entropy, the others the margin, which finds what the former's flat places hide.

    Source: Madry et al., arXiv:1706.06083; step 2.5·eps/steps as in the published evaluations.
    """
    generator = torch.Generator().manual_seed(seed)
    fooled = _wrong(model, images, labels)  # these need no attack
    for restart in range(restarts):
        rows = (~fooled).nonzero()[:, 0]
        if not len(rows):
            break
        truth = labels[rows]
        # Beyond this cross-entropy the label has less than its even share, so another class has more.
        sure, objective = (0.0, margin(truth)) if restart % 2 else (-math.log(len(model.classes)), misclassify(truth))
        found = _climb(model, objective, images[rows], eps, steps, generator, stop_below=sure)
        fooled[rows] = _wrong(model, found.images, truth)
    return fooled


def sensitivity(model: Model, images: Images, eps: float, *, steps: int = 20, seed: int = 0) -> PerImage:
    """The largest ‖R(x) − R(x′)‖ found within `eps` of each image, (n,).

    Source: the left side of equation (1) of Engstrom et al., arXiv:1906.00945, by gradient ascent.
    """
    with torch.no_grad():
        objective = leave(model.representation(images))
    true_relu = functools.partial(model.representation, fake_relu=False)
    return -_climb(true_relu, objective, images, eps, steps, torch.Generator().manual_seed(seed)).loss


def evaluate(
    model: Model,
    images: Images,
    labels: Labels,
    *,
    eps: Sequence[float] = (0.25, 0.5, 1.0),
    steps: int = 20,
    restarts: int = 1,
    seed: int = 0,
    batch_size: int = 128,
) -> dict[str, Any]:
    """Clean accuracy, and at each radius the accuracy under attack and the local sensitivity; JSON-ready.

    Args:
        model: the classifier.
        images, labels: (n, c, h, w) in [0, 1] and (n,), on any device.
        eps: L2 radii in pixel units.
        steps, restarts, seed: of the attack.
        batch_size: images at a time.

    Returns:
        Accuracies in percent; sensitivity as the median over images of the largest ‖R(x) − R(x′)‖, in units of the
        median ‖R(x) − R(y)‖ between images that stand next to each other.
    """
    if not all(radius > 0 for radius in eps) or steps < 1 or restarts < 1:
        raise ValueError(f"got eps={list(eps)}, steps={steps}, restarts={restarts}, wanted positive numbers")
    clean = accuracy(model, images, labels, batch_size=batch_size)
    parts = list(zip(images.to(model.device).split(batch_size), labels.to(model.device).split(batch_size), strict=True))
    with torch.no_grad():
        features = torch.cat([model.representation(x) for x, _ in parts])
    scale = float(torch.linalg.vector_norm(features - features.roll(1, 0), dim=1).median())
    robust: dict[str, float] = {}
    moved: dict[str, float] = {}
    for radius in eps:
        bar = tqdm(parts, desc=f"eps {radius:g}", unit="batch", delay=2, leave=False)
        fooled, far = [], []
        for i, (x, y) in enumerate(bar):
            fooled.append(attack(model, x, y, radius, steps=steps, restarts=restarts, seed=seed + i))
            far.append(sensitivity(model, x, radius, steps=steps, seed=seed + i))
        robust[str(radius)] = 100 * int((~torch.cat(fooled)).sum()) / len(labels)
        moved[str(radius)] = round(float(torch.cat(far).median()) / scale, 4)
    starts = f"{restarts} random starts, cross-entropy and margin" if restarts > 1 else "1 random start"
    about = {"n": len(labels), "attack": f"{steps}-step L2 PGD, {starts}"}
    return {"clean": clean, "l2": robust, "sensitivity": moved, **about}


def self_check(model: Model, images: Images, labels: Labels, *, expected: float | None = None) -> float:
    """Accuracy on labelled images, if it is what it should be; for a network that was just imported.

    Args:
        model: the classifier; its name in the manifest, if it has one, gives `expected`.
        images, labels: at least 20, of the data set it was trained for.
        expected: its published accuracy in percent.

    Returns:
        Accuracy in percent.

    Raises:
        ValueError: accuracy is near chance, or more than three standard errors and one point from `expected`.
    """
    if expected is None and (entry := checkpoints.manifest().get(model.name)):
        expected = _clean(entry)
    return _compare(model, images, labels, expected)


def check_imported(
    models: Mapping[str, Model],
    given: Sequence[str],
    dataset: str | Path,
    *,
    size: int,
    n: int = 100,
    seed: int = 0,
) -> bool:
    """Check networks that do not ship here, side by side in a notebook, before it draws conclusions from them.

    Prints a line for each: its accuracy, or why that could not be checked. For what stands in checkpoints/ nothing is
    computed, nor said. A network whose classes are bare numbers takes the data set's names, as its accuracy shows that
    they fit.

    Args:
        models: the networks by label.
        given: what `load_model` was given for each.
        dataset: images, by name or path.
        size: their side in pixels.
        n, seed: so many images, drawn at random, or all there are.

    Returns:
        Whether the labels of `dataset` are these networks' classes.

    Raises:
        ValueError: the networks differ in their number of classes, or one fails as in `self_check`.
    """
    if len({len(model.classes) for model in models.values()}) > 1:
        counts = " and ".join(f"{len(m.classes)} of {name}" for name, m in zip(given, models.values(), strict=True))
        raise ValueError(f"classes: got {counts}; give a checkpoint and a baseline that were trained for the same ones")
    known, names, total = checkpoints.manifest(), class_names(dataset), count_images(dataset)
    labelled = True
    for name, model in zip(given, models.values(), strict=True):
        entry, reason = known.get(name), _other_classes(model, names)
        labelled = labelled and not reason
        if not reason and entry and (checkpoints.CHECKPOINTS / entry.file).exists():
            continue
        if not reason and total < 20:
            reason = f"has only {total} images"
        if reason:
            print(f"{name}: accuracy not checked, for {dataset} {reason}")
            continue
        images, labels = load_images(dataset, indices=random_indices(dataset, min(n, total), seed=seed), size=size)
        # A published accuracy is that on the data set's own test images.
        expected = _clean(entry) if entry and AT_HAND.get(entry.dataset) == dataset else None
        found = _compare(model, images, labels, expected)
        beside = f"chance {100 / len(names):.2g} %" if expected is None else f"published {expected:.1f} %"
        print(f"{name}: {found:.1f} % of {len(labels)} images of {dataset} are right ({beside})")
        if _nameless(model):
            model.classes = names
    return labelled


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m nbhelpers.evaluate", description=__doc__)
    parser.add_argument("checkpoint", help="name in the manifest, a path, torchvision:NAME or timm:NAME")
    parser.add_argument("--quick", action="store_true", help="clean accuracy only, against the figure in the manifest")
    parser.add_argument("--dataset", help="labelled images: a name or a folder; default: what the network is for")
    parser.add_argument("--trained-on", help="data set whose normalisation a file without one gets, such as cifar10")
    parser.add_argument("--architecture", help="of a file whose keys do not tell")
    parser.add_argument("--n", type=int, default=500, help="images, drawn at random (500)")
    parser.add_argument("--eps", type=float, nargs="+", default=[0.25, 0.5, 1.0], help="L2 radii in pixel units")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--restarts", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    parser.add_argument("--write", action="store_true", help="write it into the manifest too")
    args = parser.parse_args(argv)
    try:
        return _run(args)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run(args: argparse.Namespace) -> int:
    entry = checkpoints.manifest().get(args.checkpoint)
    if args.write and entry is None:
        raise ValueError(f"--write: {args.checkpoint!r} is not in the manifest")
    model = load_model(args.checkpoint, device=args.device, architecture=args.architecture, dataset=args.trained_on)
    source = args.dataset or AT_HAND.get(args.trained_on or (entry.dataset if entry else ""))
    if source is None:
        raise ValueError("--dataset: which labelled images? A name, such as cifar10-sample, or a folder per class")
    n = min(args.n, count_images(source))
    images, labels = load_images(source, indices=random_indices(source, n, seed=args.seed), size=model.image_size)
    print(f"{model}\n{n} images of {source}, seed {args.seed}, {model.device}")
    if args.quick:
        print(f"accuracy {self_check(model, images, labels):.1f} %: as it should be")
        return 0
    result = evaluate(model, images, labels, eps=args.eps, steps=args.steps, restarts=args.restarts, seed=args.seed) | {
        "dataset": str(source),
        "seed": args.seed,
        "date": datetime.date.today().isoformat(),
    }
    print(f"{result['attack']}\n{'eps':>6} {'accuracy':>9} {'sensitivity':>12}\n{0:>6} {result['clean']:>8.1f}%")
    for radius, percent in result["l2"].items():
        print(f"{radius:>6} {percent:>8.1f}% {result['sensitivity'][radius]:>12.3f}")
    if args.json:
        args.json.write_text(
            json.dumps({"checkpoint": args.checkpoint, "device": str(model.device), **result}, indent=1)
        )
    if args.write and entry is not None:
        checkpoints.write_entry(dataclasses.replace(entry, accuracy=result))
    return 0


def _climb(
    f: Callable[[Images], Features],
    objective: Objective,
    center: Images,
    eps: float,
    steps: int,
    generator: torch.Generator,
    *,
    stop_below: float | None = None,
) -> Result:
    """PGD in each image's ball, from a point uniform in it but for the clamp to [0, 1]."""
    offset = torch.randn(center.shape, generator=generator)
    length = torch.rand(len(center), 1, 1, 1, generator=generator) ** (1 / center[0].numel())
    offset *= eps * length / torch.linalg.vector_norm(offset, dim=(1, 2, 3), keepdim=True)
    return minimize(
        f,
        objective,
        (center + offset.to(center.device)).clamp(0, 1),
        steps=steps,
        step_size=2.5 * eps / steps,
        momentum=0,
        schedule="constant",
        project=l2_ball(center, eps),
        stop_below=stop_below,
    )


def _other_classes(model: Model, names: tuple[str, ...]) -> str:
    """Why labels of these classes are not the network's; "" where they are."""
    if not names:
        return "has no labels"
    if len(names) != len(model.classes):
        return f"has {len(names)} classes, the network {len(model.classes)}"
    if not _nameless(model) and not set(names) & set(model.classes):
        return f"has other classes ({names[0]}, …) than the network ({model.classes[0]}, …)"
    return ""


def _nameless(model: Model) -> bool:
    return model.classes == tuple(map(str, range(len(model.classes))))


def _clean(entry: checkpoints.Entry) -> float | None:
    return entry.accuracy.get("clean", entry.published.get("clean"))


def _compare(model: Model, images: Images, labels: Labels, expected: float | None) -> float:
    """Accuracy, where it is neither near chance nor far from what is expected."""
    n, found, chance = len(labels), accuracy(model, images, labels), 100 / len(model.classes)
    causes = "usual causes: the wrong normalisation (mean, std), another order of classes, or the wrong file"
    if expected is not None and abs(found - expected) <= _three_errors(expected, n) + 1:
        return found
    if found <= chance + _three_errors(chance, n):
        raise ValueError(f"{model.name}: {found:.1f} % of {n} images right is near chance ({chance:.1f} %); {causes}")
    if expected is not None:
        raise ValueError(f"{model.name}: {found:.1f} % of {n} images right, expected {expected:.1f} %; {causes}")
    return found


def _wrong(model: Model, images: Images, labels: Labels) -> Tensor:
    with torch.no_grad():
        return model(images).argmax(1) != labels


def _three_errors(percent: float, n: int) -> float:
    return 3 * math.sqrt(percent * (100 - percent) / n)


if __name__ == "__main__":
    sys.exit(main())
