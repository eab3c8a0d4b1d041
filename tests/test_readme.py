"""Every ```python block of the README and of docs/ runs, in order, in a folder like a reader's.

Blocks that need a cluster or many minutes are fenced ```py; tests/test_sweep.py runs what they call.
"""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import pytest
import torch

import nbhelpers.checkpoints
from nbhelpers.networks.resnet import resnet

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A folder with a few photographs and a checkpoint, which the README speaks of."""
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(3):
            pixels = random.integers(0, 256, (70, 80, 3), dtype=np.uint8)
            PIL.Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.jpg")
    torch.manual_seed(0)
    torch.save(resnet("resnet18").state_dict(), tmp_path / "mine.pt")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in TEXTS[page]], ids=lambda page: page.stem)
def test_its_code_runs(page, reader, capsys):
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", TEXTS[page], flags=re.M | re.S):
        capsys.readouterr()
        exec(compile(block, page.name, "exec"), names)
        printed = capsys.readouterr().out
        for line in block.splitlines():
            said = line.partition("  # ")[2]
            if line.startswith("print(") and said.endswith(")"):  # `print(x)  # Model(…)` says what is printed
                assert said in printed
    plt.close("all")


def test_the_first_page_is_short_and_leads_to_all_others():
    assert len(TEXTS[README].encode()) <= 10_000
    for page in PAGES[1:]:
        assert f"(docs/{page.name})" in TEXTS[README]


@pytest.mark.parametrize(
    "page", [*PAGES, *(ROOT / name for name in ("checkpoints/README.md", "data/README.md"))], ids=str
)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_checkpoints_that_they_name_are_in_the_manifest():
    text, known = "".join(TEXTS.values()), nbhelpers.checkpoints.manifest()
    for name in re.findall(r"`((?:cifar10|imagenet|restricted-imagenet)-[a-z0-9.-]*\d)`", text):
        assert name in known or name.startswith("imagenet-val"), name
    for start in re.findall(r"`(imagenet-[a-z0-9-]+-)…`", text):
        assert any(name.startswith(start) for name in known), start
