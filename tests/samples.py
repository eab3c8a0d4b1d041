"""A small network, folders of small pictures, and scripts as modules."""

import importlib.util
from pathlib import Path
from types import ModuleType

import PIL.Image
import torch
from torch import nn

HALF = {"mean": (0.5,) * 3, "std": (0.25,) * 3}


def small(*more: nn.Module, channels: int = 3, width: int = 8, classes: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    first = nn.Conv2d(channels, width, 3, padding=1)
    return nn.Sequential(
        first, nn.ReLU(), *more, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)
    )


def put(folder: Path, *names: str) -> Path:
    for shade, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (9, 9), (shade, 0, 0)).save(folder / name)
    return folder


def module_of(path: Path) -> ModuleType:
    """A script outside the package, imported from its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
