"""A small page for tests: two random networks, and the page opened without a network."""

import base64
import contextlib
import copy
import dataclasses
import re
from pathlib import Path

import torch

from nbhelpers.networks.model import Model
from nbhelpers.networks.resnets import resnet
from nbhelpers.page.pictures import read_sheet


@dataclasses.dataclass
class Made:
    """A page and what it was made of."""

    path: Path
    models: dict[str, Model]


def tiny(seed: int) -> Model:
    """A random network whose weights are halves, of which the page loses nothing."""
    torch.manual_seed(seed)
    network = resnet("resnet18", width=4)
    for weight in network.parameters():
        weight.data = weight.data.half().float()
    scale = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    return Model(copy.deepcopy(network), image_size=32, name=f"tiny{seed}", **scale)


@contextlib.contextmanager
def opened(chrome, path, demo="", *, script="", **options):
    """The page, offline; at the end its console was silent and nothing was asked for."""
    context = chrome.new_context(offline=True, **options)
    page = context.new_page()
    faults, requests = [], []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "console", lambda message: faults.append(message.text) if message.type == "error" else None
    )
    page.on("request", lambda request: requests.append(request.url))
    if script:
        page.add_init_script(script)
    page.goto(f"{path.as_uri()}#{demo}")
    page.wait_for_selector("body[data-engine]")
    yield page
    assert not faults
    assert all(url.startswith(("file:", "blob:", "data:")) for url in requests)
    context.close()


def strip(path):
    """The pictures of the page's film strip, (49, 3, 32, 32)."""
    text = path.read_text(encoding="utf-8")
    sheet = base64.b64decode(re.search(r'id="pictures">(.*?)</script>', text, re.DOTALL)[1])
    return read_sheet(sheet, (32, 32), 49)
