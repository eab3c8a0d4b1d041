"""Speed of a gradient pass by memory format, precision and compilation.

`load_model` uses channels_last on a CPU, which is never slower here, and compiles nothing: on a CPU
a compilation takes longer than most runs.
"""

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import nbhelpers as nb
from benchmarks import measure
from nbhelpers.networks.resnets import resnet
from nbhelpers.types import pick_device

ROUNDS = 5
CASES: list[tuple[str, int, int]] = [  # network, batch, pixels
    ("cifar10-l2-0.5", 1, 32),
    ("cifar10-l2-0.5", 8, 32),
    ("cifar10-l2-0.5", 32, 32),
    ("resnet18, width 64", 8, 32),
    ("torchvision:resnet18", 4, 224),
    ("torchvision:resnet50", 2, 224),
    ("torchvision:densenet121", 2, 224),
    ("torchvision:mobilenet_v3_small", 4, 224),
    ("torchvision:convnext_tiny", 2, 224),
    ("torchvision:vit_b_16", 1, 224),
]
COMPILED = {("cifar10-l2-0.5", 8), ("cifar10-l2-0.5", 32)}  # the others take minutes


def main() -> None:
    print(
        "\n# formats: ms of a forward and input-gradient pass, medians, and speed in units of "
        "float32, channels last"
    )
    about, rows = measure.header(), []
    for name, batch, size in CASES:
        torch.manual_seed(0)
        if name.startswith("resnet18,"):
            model = nb.Model(resnet("resnet18"), image_size=32).to(pick_device())
        else:
            model = nb.load_model(name, pretrained=False)
        images = torch.rand(batch, 3, size, size, device=model.device)
        contenders = {
            "channels last": copy.deepcopy(model)
            .to(memory_format=torch.channels_last)
            .representation,
            "contiguous": copy.deepcopy(model)
            .to(memory_format=torch.contiguous_format)
            .representation,
            "bfloat16": half(model).representation,
        }
        row: dict[str, Any] = {"network": name, "batch": batch, "pixels": size}
        if (name, batch) in COMPILED:
            began = time.perf_counter()
            contenders["compiled"] = torch.compile(
                copy.deepcopy(model).representation, dynamic=False
            )
            passing(contenders["compiled"], images)()
            row["compilation s"] = time.perf_counter() - began
        else:
            row["compilation s"] = ""
        passes = {key: passing(f, images) for key, f in contenders.items()}
        seconds = measure.interleave(
            {key: lambda run=run: measure.laps(run, 3) for key, run in passes.items()}, ROUNDS
        )
        row["ms"] = 1000 * measure.median(seconds["channels last"])
        for key in ("contiguous", "bfloat16", "compiled"):
            row[key] = (
                measure.ratio(seconds["channels last"], seconds[key]) if key in seconds else ""
            )
        rows.append(row)
    measure.table(rows)
    measure.save("formats", {"about": about, "rows": rows})


def half(model: nb.Model) -> nb.Model:
    """A copy with gradient passes in bfloat16."""
    model = copy.deepcopy(model)
    model.precision = "bfloat16"
    return model


def passing(f: Callable[[Tensor], Tensor], images: Tensor) -> Callable[[], Tensor]:
    """A forward and input-gradient pass."""

    def run() -> Tensor:
        x = images.clone().requires_grad_()
        return torch.autograd.grad(f(x).sum(), x)[0]

    return run
