"""A small exported page: two random networks, opened offline."""

import base64
import contextlib
import copy
import dataclasses
import functools
import json
import re
from pathlib import Path

import torch
from browser_support import pixels
from torch import Tensor, nn

import nbhelpers as nb
from nbhelpers.networks.model import Model
from nbhelpers.networks.resnets import resnet
from nbhelpers.optimize import first_step
from nbhelpers.page.exporting import json_of
from nbhelpers.page.pictures import read_sheet
from nbhelpers.widgets.settings import BRITTLENESS

QUICK = 8  # steps


@dataclasses.dataclass
class Made:
    """A page with its networks and files."""

    path: Path
    models: dict[str, Model]

    @functools.cached_property
    def quick(self) -> Path:
        """The same page with searches of a few steps."""
        text = self.path.read_text(encoding="utf-8")
        before, state, after = re.split(r'(?<=id="state">)(.*?)(?=</script>)', text, maxsplit=1)
        found = json.loads(state)
        for own in found["settings"].values():
            own["steps"] = QUICK
        path = self.path.with_name("quick.html")
        path.write_text(before + json_of(found) + after, encoding="utf-8")
        return path


# of ten photographs, so that a random network is wrong about most of them
CLASSES = ("goldfish", "hen", "koala", "gorilla", "lesser panda", "ladybug", "monarch", "castle")
CLASSES += ("African chameleon", "African crocodile")


def tiny(seed: int) -> Model:
    """A random network with half-precision weights, which the export does not round."""
    torch.manual_seed(seed)
    network = resnet("resnet18", width=4)
    for weight in network.parameters():
        weight.data = weight.data.half().float()
    scale = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "classes": CLASSES}
    return Model(copy.deepcopy(network), image_size=32, name=f"tiny{seed}", **scale)


def plain(seed: int) -> Model:
    """A network of two convolutions, for slow backends."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )
    for weight in network.parameters():
        weight.data = weight.data.half().float()
    return Model(network, image_size=32, name=f"plain{seed}", mean=(0.5,) * 3, std=(0.25,) * 3)


@contextlib.contextmanager
def opened(chrome, path, demo="", *, script="", query="", **options):
    """The page, offline; checks that it logs nothing and requests nothing."""
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
    page.goto(f"{path.as_uri()}{query}#{demo}")
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


def wait(page, demo, state="done"):
    """Until a demo is in a state."""
    page.wait_for_function(
        "([demo, state]) => document.body.dataset.demo === demo && document.body.dataset.state === state",
        arg=[demo, state],
        timeout=60_000,
    )


def go(page, demo, state="done"):
    """Another demo, until it is in a state."""
    page.evaluate("(demo) => { location.hash = demo; }", demo)
    wait(page, demo, state)


def shown(page):
    """The stage's pictures, (n, h, w, 3), 0 to 255."""
    return pixels(page.locator("#stage .nb-picture > canvas:first-child"))


def brittle(made: Made) -> list[Tensor]:
    """Where PyTorch's searches of the demo *Brittle pairs* end, (3, 32, 32) for each network."""
    found = []
    first, second = strip(made.path)[:2].split(1)
    for model in made.models.values():
        f = functools.partial(model.representation, positions=True)
        with torch.no_grad():
            goal = nb.match(f(second))
        length = first_step(BRITTLENESS.step_size, BRITTLENESS.steps, steps=60, shape=first.shape)
        solver = nb.Solver(step_size=length, keep="last")
        project = nb.l2_ball(first, 1.0)
        found += nb.minimize(f, goal, first, steps=60, solver=solver, project=project).images
    return found
