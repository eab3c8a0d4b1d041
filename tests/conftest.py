"""One tiny random network for most tests, one thread, and the files that take longest first."""

import pytest
import torch

from nbhelpers.networks.model import Model
from nbhelpers.networks.resnets import resnet

torch.set_num_threads(1)  # many small tests: threads cost more than they bring


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


# Each takes half a minute or more. What is done first leaves no core idle at the end, beside the
# last long file.
LONGEST = [
    "presets",
    "page_engine",
    "browser",
    "shipped",
    "notebooks_imported",
    "page_live",
    "train",
    "sweep",
]
LONGEST += ["inversion", "browser_use", "browser_paint", "page_paint", "types"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, then the notebooks, whose kernels may warn of things of their
    own.
    """
    places = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    for item in items:
        if item.path.suffix == ".ipynb":
            places[item.path.stem] = len(LONGEST)
            item.add_marker(pytest.mark.filterwarnings("default"))
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
