"""Measure representations over a whole data set: python -m tools evidence --out FOLDER

Inverts every image from noise, fills a hole in it, and draws every class, with a robust and a
standard network. A held-out network judges: the other one, or `--judge`. Saves shards, from which a
stopped run resumes. Prints means with 95 % intervals, and how robust compares with standard.
"""

import argparse
import json
from pathlib import Path

import numpy
import torch
from torch import Tensor

import nbhelpers as nb
from nbhelpers.figures.results import mean_of
from nbhelpers.files import write_text

Scores = dict[str, dict[str, list[float]]]  # measure → pictures → one number per image
DIGITS = {"SSIM": 3, "PSNR, dB": 1}  # decimals; percentages have none


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--checkpoint", default="tiny-l2-2.0", help="robust network")
    parser.add_argument("--baseline", default="tiny-standard", help="standard network")
    parser.add_argument("--judge", help="a third network as judge of both")
    parser.add_argument("--dataset", default="pictures", help="images to invert")
    parser.add_argument("--n", type=int, help="size of a random sample; default: all images")
    parser.add_argument("--shard", type=int, default=31, help="images at a time")
    parser.add_argument("--steps", type=int, default=80, help="gradient steps")
    parser.add_argument(
        "--step-size", type=float, default=0.8, help="first step of an inversion, for 32 pixels"
    )
    parser.add_argument("--seed", type=int, default=0, help="of sample and noise")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    _same_settings(given.out / "settings.json", vars(given))
    pair = nb.load_pair(given.checkpoint, given.baseline, given.dataset, device=given.device)
    robust, standard = pair.networks["robust"], pair.networks["standard"]
    judge = given.judge and nb.load_model(given.judge, device=given.device)
    judges = {"robust": judge or standard, "standard": judge or robust}
    order = nb.random_indices(pair.dataset, given.n or len(pair.dataset), seed=given.seed)
    solver = nb.Solver(step_size=pair.length(given.step_size))
    shards = []
    for number, first in enumerate(range(0, len(order), given.shard)):
        images, _ = pair.load(order[first : first + given.shard])
        shards.append(
            _kept(
                given.out / f"images-{number:04d}.json",
                lambda images=images, number=number: {
                    **_inversions(pair, judges, images, given.steps, solver, given.seed + number),
                    **_holes(pair, images, given.steps, given.seed + number),
                },
            )
        )
        print(f"{first + len(images)} of {len(order)} images", flush=True)
    drawn = _kept(given.out / "classes.json", lambda: _classes(pair, judges, 40, given.seed))
    every = _joined([*shards, drawn])
    print(_table(every))
    print(_comparisons(every))


def _same_settings(path: Path, given: dict[str, object]) -> None:
    """Refuse a folder whose shards have other settings.

    Raises:
        ValueError: they differ.
    """
    settings = {k: v for k, v in given.items() if k not in ("out", "device")}
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else settings
    if kept != settings:
        other = [f"{k}={kept.get(k)!r}" for k in settings if kept.get(k) != settings[k]]
        raise ValueError(
            f"--out: {path.parent} has shards of {', '.join(other)}; give a new folder"
        )
    write_text(path, json.dumps(settings))


def _kept(path: Path, make) -> Scores:
    if not path.exists():
        write_text(path, json.dumps(make()))
    return json.loads(path.read_text(encoding="utf-8"))


def _inversions(pair, judges, images: Tensor, steps: int, solver: nb.Solver, seed: int) -> Scores:
    start = nb.noise(len(images), size=pair.size, seed=seed).to(images.device)
    rebuilt = {
        form: nb.minimize(f, nb.match(f(images)), start, steps=steps, solver=solver).images
        for form, f in pair.representations.items()
        if form.endswith("with positions")
    }
    rebuilt |= {"plain grey": torch.full_like(images, 0.5), "another image": images.roll(1, 0)}
    scores: Scores = {"SSIM": {}, "PSNR, dB": {}, "judge names the same class, %": {}}
    for name, pictures in rebuilt.items():
        judge = judges[name.split(",")[0]] if "," in name else judges["robust"]
        same = nb.predict(judge, pictures) == nb.predict(judge, images)
        for measure, values in zip(
            scores, (nb.ssim(pictures, images), nb.psnr(pictures, images), 100 * same), strict=True
        ):
            scores[measure][name] = values.tolist()
    return scores


def _holes(pair, images: Tensor, steps: int, seed: int) -> Scores:
    """Fill a central hole, 3/8 of a side, by matching the representation around it."""
    height, width = images.shape[-2:]
    top, left = height * 5 // 16, width * 5 // 16
    mask, around = torch.zeros(height, width), torch.zeros(height, width)
    mask[top : height - top, left : width - left] = 1
    around[top - 2 : height - top + 2, left - 2 : width - left + 2] = 1
    mask, rim = mask.to(images.device), (around - mask).to(images.device)
    grain = 0.5 + 0.25 * (nb.noise(len(images), size=pair.size, seed=seed).to(images) - 0.5)
    hidden, within = torch.where(mask > 0, grain, images), nb.within(mask, images)
    colour = ((images * rim).sum((2, 3), keepdim=True) / rim.sum()).expand_as(images)
    fills = {"mean colour of the rim": colour}
    for name, network in pair.networks.items():
        rest = nb.region(network, 1 - mask, positions=True)
        goal = nb.match(rest(images))
        fills[f"{name}, with positions"] = nb.minimize(
            rest, goal, hidden, steps=steps, project=within
        ).images
    inside = (..., slice(top, height - top), slice(left, width - left))
    truth = images[inside]
    return {
        "hole: PSNR, dB": {k: nb.psnr(x[inside], truth).tolist() for k, x in fills.items()},
        "hole: SSIM": {k: nb.ssim(x[inside], truth).tolist() for k, x in fills.items()},
    }


def _classes(pair, judges, steps: int, seed: int) -> Scores:
    classes = torch.arange(len(pair.classes))
    start = 0.5 + 0.25 * (nb.noise(len(classes), size=pair.size, seed=seed) - 0.5)
    named = {}
    for name, network in pair.networks.items():
        drawn = nb.minimize(network, nb.activate(classes), start.to(network.device), steps=steps)
        named[f"{name}, logit"] = nb.predict(judges[name], drawn.images) == classes
    named["the start"] = nb.predict(judges["robust"], start) == classes
    return {"judge names the class drawn, %": {k: (100 * v).tolist() for k, v in named.items()}}


def _joined(shards: list[Scores]) -> Scores:
    every: Scores = {}
    for shard in shards:
        for measure, row in shard.items():
            for name, values in row.items():
                every.setdefault(measure, {}).setdefault(name, []).extend(values)
    return every


def _comparisons(every: Scores) -> str:
    """Robust against standard and null, image by image, with 95 % bootstrap intervals."""
    similar = {k: numpy.array(v) for k, v in every["SSIM"].items()}
    robust, standard = similar["robust, with positions"], similar["standard, with positions"]
    drawn = numpy.random.default_rng(0).integers(0, len(robust), (1000, len(robust)))
    ratios = robust[drawn].mean(1) / standard[drawn].mean(1)
    low, high = numpy.quantile(ratios, (0.025, 0.975))
    filled = {k: numpy.array(v) for k, v in every["hole: PSNR, dB"].items()}
    gain = mean_of(filled["robust, with positions"] - filled["mean colour of the rim"])
    return (
        f"SSIM, robust / standard: {robust.mean() / standard.mean():.2f} ({low:.2f}–{high:.2f})\n"
        f"hole, robust above the rim's mean colour: {gain} dB"
    )


def _table(every: Scores) -> str:
    """Markdown: a row for each kind of picture, a column for each measure."""
    names = list(dict.fromkeys(name for row in every.values() for name in row))
    lines = [f"| | {' | '.join(every)} |", "|---" * (1 + len(every)) + "|"]
    for name in names:
        cells = [_cell(measure, row.get(name)) for measure, row in every.items()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    counts = ", ".join(
        f"{measure} n = {len(next(iter(r.values())))}" for measure, r in every.items()
    )
    return "\n".join([*lines, f"({counts})"])


def _cell(measure: str, values: list[float] | None) -> str:
    if values is None:
        return ""
    percent = measure.endswith("%")
    found = mean_of([value / 100 for value in values] if percent else values)
    digits = 0 if percent else DIGITS.get(measure.removeprefix("hole: "), 2)
    scale = 100 if percent else 1
    mean, low, high = (
        f"{scale * (x if x is not None else found.mean):.{digits}f}"
        for x in (found.mean, found.low, found.high)
    )
    return f"{mean} ({low}–{high})"


if __name__ == "__main__":
    main()
