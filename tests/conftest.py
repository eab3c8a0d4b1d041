"""A tiny random network, one thread, workers by cores and memory, longest files first."""

import contextlib
import os
import signal
from pathlib import Path

import pytest
import torch

from nbhelpers.networks.model import Model
from nbhelpers.networks.resnets import resnet

# Children of a background shell ignore SIGINT, which tests need.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(1)  # faster for small tests


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="what `make check` runs")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --quick long files are not even imported."""
    long = collection_path.stem.removeprefix("test_") in LONG
    return True if long and config.getoption("quick") else None


@pytest.fixture(scope="session")
def tiny_model() -> Model:
    """A random CIFAR ResNet-18 of width 4 (44,622 parameters, 32 components) on the CPU."""
    torch.manual_seed(0)
    return Model(
        resnet("resnet18", width=4),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        image_size=32,
        name="tiny",
    )


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A worker per core and per 3 GiB: a network, a kernel and a browser."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        count = min(count or 1, int(gib // 3))
    return max(1, count or 1)


# Slow files run first, so that no core is idle at the end; `make check` skips them.
LONG = ["presets", "page_engine", "shipped", "notebooks_imported", "page_live", "train"]
LONG += ["browser", "browser_demos", "browser_paint", "browser_use"]  # they share a JupyterLab
LONG += ["sweep", "inversion"]
LONG += ["notebooks_painting"]
LONG += ["resume", "evaluate", "peers_robustness", "peers_robustbench", "package", "readme"]
LONG += ["real_imagenet", "page_firefox", "shards", "demos", "lab", "reference"]
FIRST = [*LONG, "types"]
# `make check` skips these too.
LONG += ["interrupts", "process_settings", "library_networks", "layers", "stopped", "architectures"]
LONG += ["any_network", "paint", "page_webgpu"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the longest files first; allow warnings in notebooks' kernels."""
    places = {f"test_{name}": place for place, name in enumerate(FIRST)}
    for item in items:
        if item.path.suffix == ".ipynb":
            places[item.path.stem] = len(FIRST)
            item.add_marker(pytest.mark.filterwarnings("default"))
        if item.path.stem.removeprefix("test_") in LONG:
            item.add_marker("long")
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
