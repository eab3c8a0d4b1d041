"""Every ```python block of README and docs/ runs, in order, in a folder like a reader's.

Blocks that need a cluster or many minutes are fenced ```py: they are compiled, and
tests/runs/test_sweep.py runs what they call. Of shell blocks the commands and options are looked up.
"""

import ast
import importlib
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import pytest
import torch

import nbhelpers.checkpoints
from nbhelpers.commands import COMMANDS, main
from nbhelpers.networks.resnets import resnet

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}


def blocks(text: str, *languages: str) -> list[str]:
    """The fenced blocks in the given languages, in order."""
    return re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```", text, flags=re.M | re.S)


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A folder with the README's example photographs and checkpoint."""
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(3):
            pixels = random.integers(0, 256, (70, 80, 3), dtype=np.uint8)
            PIL.Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.jpg")
    torch.manual_seed(0)
    torch.save(resnet("resnet18").state_dict(), tmp_path / "mine.pt")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```python" in TEXTS[page]], ids=lambda page: page.stem
)
def test_its_code_runs(page, reader, capsys):
    names: dict = {}
    for block in blocks(TEXTS[page], "python"):
        capsys.readouterr()
        exec(compile(block, page.name, "exec"), names)
        printed = capsys.readouterr().out
        for line in block.splitlines():
            comment = line.partition("  # ")[2]
            # `print(x)  # Model(…)` has the output as its comment
            if line.startswith("print(") and comment.endswith(")"):
                assert comment in printed
    plt.close("all")


def test_code_that_is_not_run_compiles_and_imports_what_there_is():
    for page, text in TEXTS.items():
        for block in blocks(text, "py"):
            for node in ast.walk(ast.parse(block, page.name)):
                if (
                    isinstance(node, ast.ImportFrom)
                    and node.module
                    and node.module.startswith("nbhelpers")
                ):
                    for name in node.names:
                        assert hasattr(importlib.import_module(node.module), name.name), (
                            f"{page.name}: {name.name}"
                        )


def test_commands_and_their_options_exist(capsys):
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
    seen = set()
    for page, text in TEXTS.items():
        assert not re.search(r"-m nbhelpers\.", text), (
            f"{page.name}: `nbhelpers COMMAND` is the one command"
        )
        assert {*re.findall(r"`make ([a-z]+)`", text)} <= {*targets}, page.name
        for block in blocks(text, "sh", "powershell"):
            # joined where a backslash breaks them
            for line in block.replace("\\\n", " ").splitlines():
                call, _, _ = line.partition(" #")
                if found := re.match(r"make (\w+)", call):
                    assert found[1] in targets, line
                if found := re.search(r"\bnbhelpers (\w+)(.*)", call):
                    assert found[1] in COMMANDS, line
                    seen.add(found[1])
                    with pytest.raises(SystemExit):
                        main([found[1], "--help"])
                    options = re.findall(r"-{1,2}[a-z][a-z-]*", capsys.readouterr().out)
                    assert {*re.findall(r"(?<!\S)-{1,2}[a-z][a-z-]*", found[2])} <= {*options}, line
    assert {"train", "evaluate", "sweep", "report", "invert", "visualize", "demo"} <= seen


def test_the_first_page_is_short_and_leads_to_all_others():
    assert len(TEXTS[README].encode()) <= 10_000
    for page in PAGES[1:]:
        assert f"(docs/{page.name})" in TEXTS[README]


@pytest.mark.parametrize(
    "page",
    [*PAGES, *(ROOT / name for name in ("checkpoints/README.md", "data/README.md"))],
    ids=str,
)
def test_links_lead_somewhere(page):
    for target, heading in re.findall(
        r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")
    ):
        place = page.parent / target if target else page
        assert place.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)", place.read_text(encoding="utf-8"), flags=re.M)
            assert heading in {
                re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings
            }, heading


def test_checkpoints_that_they_name_are_in_the_manifest():
    text, known = "".join(TEXTS.values()), nbhelpers.checkpoints.manifest()
    for name in re.findall(r"`((?:cifar10|imagenet|restricted-imagenet)-[a-z0-9.-]*\d)`", text):
        assert name in known or name.startswith("imagenet-val"), name
    for start in re.findall(r"`(imagenet-[a-z0-9-]+-)…`", text):
        assert any(name.startswith(start) for name in known), start
