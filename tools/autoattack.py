"""Evaluate a shipped network with AutoAttack (L2), an independent implementation.

Usage: python -m tools autoattack NAME [--eps 0.5] [--n 1000] [--stages apgd-ce apgd-t fab-t square]
[--write]

Test images are the sample of `nbhelpers evaluate`. Each stage attacks the images that withstood the
stages before. Batches are saved in runs/bench/, where a later call resumes. torchattacks is imported
from .attacks (`make .attacks/.installed`), since it needs another robustbench than .peers.
"""

import argparse
import copy
import dataclasses
import sys
import time

import torch

from benchmarks import measure
from nbhelpers import checkpoints, load_images, load_model, random_indices

# AutoAttack's standard version, in order
STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")
BATCH = 100


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools autoattack", description=__doc__.splitlines()[0]
    )
    parser.add_argument("checkpoint")
    parser.add_argument(
        "--eps",
        type=float,
        help="L2 radius, pixel units; default: what the network was trained for",
    )
    parser.add_argument("--n", type=int, default=1000, help="test images")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--write", action="store_true", help="put the result into the manifest")
    args = parser.parse_args()
    sys.path.append(str(measure.ROOT / ".attacks"))
    entry = checkpoints.entry(args.checkpoint)
    eps = args.eps or float(entry.training["eps"]) or 0.5
    print(f"# AutoAttack on {args.checkpoint}, L2 radius {eps:g}, {args.n} test images")
    about, name = measure.header(), f"autoattack-{args.checkpoint}-{eps:g}-{args.n}"
    found = measure.load(name) or {"sha256": entry.sha256, "stages": {}}
    if found["sha256"] != entry.sha256:
        found = {"sha256": entry.sha256, "stages": {}}  # the file had other weights
    model = load_model(args.checkpoint)
    drawn = random_indices("cifar10-sample", args.n)
    images, labels = (
        part.to(model.device) for part in load_images("cifar10-sample", indices=drawn)
    )
    with torch.no_grad():
        robust = (model(images).argmax(1) == labels).nonzero()[:, 0].tolist()
    percent = {"clean": 100 * len(robust) / args.n}
    print(f"clean {percent['clean']:.1f} %")
    for stage in args.stages:
        record = found["stages"].setdefault(stage, {"done": 0, "robust": [], "seconds": 0.0})
        attack = build(stage, Half(model), eps)
        while record["done"] < len(robust):
            rows, began = robust[record["done"] : record["done"] + BATCH], time.perf_counter()
            moved = attack(images[rows], labels[rows])
            length = (moved - images[rows]).flatten(1).norm(dim=1)
            with torch.no_grad():
                # images beyond the radius do not count
                right = (model(moved).argmax(1) == labels[rows]) | (length > eps * 1.001)
            record["robust"] += [
                row for row, kept in zip(rows, right.tolist(), strict=True) if kept
            ]
            record["done"] += len(rows)
            record["seconds"] += time.perf_counter() - began
            measure.save(name, {**found, "about": about})
        robust = record["robust"]
        percent[stage] = 100 * len(robust) / args.n
        print(f"after {stage} {percent[stage]:.1f} %, {record['seconds']:.0f} s", flush=True)
    if args.write:
        confirmed = {
            "eps": eps,
            "n": args.n,
            "stages": list(args.stages),
            "accuracy": percent[args.stages[-1]],
        }
        accuracy = {**entry.accuracy, "autoattack": confirmed | {"package": "torchattacks 3.5.1"}}
        checkpoints.write_entry(dataclasses.replace(entry, accuracy=accuracy))


class Half(torch.nn.Module):
    """The network with its representation in bfloat16, for the search only; main judges in float32.

    Twice as fast on the CPU that we measured.
    """

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.cut = copy.deepcopy(model.parts.trunk).to(torch.bfloat16)
        self.head, self.mean, self.std = model.head, model.mean, model.std

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = ((images - self.mean) / self.std).to(torch.bfloat16)
        return self.head(self.cut(x.contiguous(memory_format=torch.channels_last)).float())


def build(stage: str, model: torch.nn.Module, eps: float):
    """One stage, with AutoAttack's own settings."""
    from torchattacks.attacks.apgd import APGD
    from torchattacks.attacks.apgdt import APGDT
    from torchattacks.attacks.fab import FAB
    from torchattacks.attacks.square import Square

    common = {"eps": eps, "norm": "L2", "seed": 0, "n_restarts": 1}
    match stage:
        case "apgd-ce":
            return APGD(model, loss="ce", **common)
        case "apgd-t":
            return APGDT(model, n_classes=10, **common)
        case "fab-t":
            return FAB(model, multi_targeted=True, n_classes=10, **common)
        case _:
            return Square(model, n_queries=5000, **common)
