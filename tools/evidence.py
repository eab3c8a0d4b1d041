"""What a representation holds, over the whole sample: `python -m tools.evidence --out
runs/evidence`.

Inverts n images from noise, for a robust and a standard network, with the representation averaged
and with positions, and judges the reconstructions by a network that took no part. In shards, so
that it goes on where it was stopped; the table is printed after each, over all shards that are
there.
"""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import nbhelpers as nb

NETWORKS = {"robust": "cifar10-l2-0.5", "standard": "cifar10-standard"}
JUDGE = "cifar10-l2-0.25"  # takes no part in any inversion
KINDS = {"averaged": False, "with positions": True}
# digits to show
MEASURES = {"SSIM": 3, "PSNR, dB": 1, "judge agrees, %": 1, "distance in the judge": 2}
Scores = dict[str, dict[str, Tensor]]  # which pictures → measure → one number per image


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--dataset", default="cifar10-sample", help="images to invert")
    parser.add_argument("--n", type=int, default=2000, help="images; no more than the data set has")
    parser.add_argument(
        "--shard", type=int, default=100, help="images inverted and saved at a time"
    )
    parser.add_argument("--steps", type=int, default=200, help="gradient steps")
    parser.add_argument(
        "--step-size", type=float, help="L2 length of the first step; the default's where not given"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="picks the images, and with each shard's number its noise",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    networks = {
        name: nb.load_model(checkpoint, device=given.device)
        for name, checkpoint in NETWORKS.items()
    }
    judge = nb.load_model(JUDGE, device=given.device)
    total = nb.count_images(given.dataset)
    # In random order, so that the first shards are a fair sample of all.
    order = torch.randperm(total, generator=torch.Generator().manual_seed(given.seed))[: given.n]
    mean = torch.stack([images.mean(0) for images, _ in nb.iter_batches(given.dataset)]).mean(0)
    shards = []
    for number, indices in enumerate(order.split(given.shard)):
        path = given.out / f"{number:04d}.pt"
        if not path.exists():
            images, labels = nb.load_images(given.dataset, indices=indices.tolist())
            start = nb.noise(len(images), size=images.shape[-1], seed=given.seed + number)
            options = {"steps": given.steps, "solver": nb.Solver(step_size=given.step_size)}
            rebuilt = _invert(networks, images.to(judge.device), start.to(judge.device), options)
            partners = nb.random_partners(labels, seed=given.seed + number)
            rebuilt |= {
                "random pairs": images[partners],
                "plain grey": torch.full_like(images, 0.5),
            }
            rebuilt |= {"the mean image": mean.expand_as(images)}
            scores = {
                name: _score(judge, images, pictures.cpu()) for name, pictures in rebuilt.items()
            }
            torch.save(scores, path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)
        shards.append(torch.load(path, weights_only=True))
        print(_table(shards, given.steps), flush=True)


def _invert(
    networks: dict[str, nb.Model], images: Tensor, start: Tensor, options: dict[str, Any]
) -> dict[str, Tensor]:
    rebuilt = {}
    for name, network in networks.items():
        for kind, positions in KINDS.items():
            f: Callable[[Tensor], Tensor] = functools.partial(
                network.representation, positions=positions
            )
            rebuilt[f"{name}, {kind}"] = nb.minimize(
                f, nb.match(f(images)), start, **options
            ).images
    return rebuilt


def _score(judge: nb.Model, images: Tensor, pictures: Tensor) -> dict[str, Tensor]:
    agrees = nb.predict(judge, pictures) == nb.predict(judge, images)
    far = nb.distance(nb.represent(judge, pictures), nb.represent(judge, images))
    values = (nb.ssim(pictures, images), nb.psnr(pictures, images), 100 * agrees.float(), far)
    return dict(zip(MEASURES, values, strict=True))


def _table(shards: list[Scores], steps: int) -> str:
    """Markdown: means over all images, and between which values 95 % of bootstrap means lie."""
    every = {
        name: {m: torch.cat([shard[name][m] for shard in shards]) for m in MEASURES}
        for name in shards[0]
    }
    n = len(every["plain grey"]["SSIM"])
    drawn = torch.randint(n, (2000, n), generator=torch.Generator().manual_seed(0))
    lines = [
        f"| {n} images, {steps} steps | {' | '.join(MEASURES)} |",
        "|---" * (1 + len(MEASURES)) + "|",
    ]
    for name, measured in every.items():
        cells = []
        for measure, values in measured.items():
            low, high = values[drawn].mean(1).quantile(torch.tensor([0.025, 0.975])).tolist()
            digits = MEASURES[measure]
            cells.append(f"{values.mean():.{digits}f} ({low:.{digits}f} to {high:.{digits}f})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
