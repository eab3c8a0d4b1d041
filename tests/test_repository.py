"""What a repository promises around its code: pinned versions, workflows, releases, one version everywhere."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = (ROOT / "constraints.txt").read_text().splitlines()


def pinned(python: str, system: str = "linux") -> dict[str, str]:
    """Package → version that constraints.txt has for this Python and system."""
    here = {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": system}
    lines = [Requirement(line) for line in PINS if not line.startswith("#")]
    found = [line for line in lines if line.marker is None or line.marker.evaluate(here)]
    assert len({line.name for line in found}) == len(found), "a package with two versions"
    return {canonicalize_name(line.name): str(line.specifier).removeprefix("==") for line in found}


def test_pins_are_names_and_versions_alone() -> None:
    for line in PINS[1:]:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*( ; .+)?", line), line


def test_every_package_is_pinned_within_its_bounds_on_all_systems() -> None:
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"], "uv"]
    for python in ("3.11", "3.13"):
        for system in ("linux", "darwin", "win32"):
            pins = pinned(python, system)
            for text in wanted:
                needed = Requirement(text)
                assert needed.specifier.contains(pins[canonicalize_name(needed.name)]), text


def test_installing_from_an_index_is_not_pinned() -> None:
    for text in PROJECT["dependencies"]:
        assert "==" not in text and "<" not in text, text


def test_what_the_hooks_install_is_pinned_alike() -> None:
    pins, hooks = pinned("3.11"), yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    installed = [
        Requirement(text)
        for repository in hooks["repos"]
        for hook in repository["hooks"]
        for text in hook.get("additional_dependencies", ())
    ]
    for one in installed:
        if one.name in pins:
            assert one.specifier.contains(pins[one.name]), f"{one}: constraints.txt has another"
    assert "ruff" in {one.name for one in installed}


def test_one_version_everywhere() -> None:
    here = PROJECT["version"]
    assert version("nbhelpers") == here, "install anew: make .venv/.installed"
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    dated = re.findall(r"^## \[([\d.]+)\] - (\d{4}-\d{2}-\d{2})$", changes, flags=re.M)
    assert dated[0] == (here, str(citation["date-released"])) and citation["version"] == here
    assert re.findall(r"^## .*", changes, flags=re.M) == [
        "## [Unreleased]",
        *(f"## [{name}] - {day}" for name, day in dated),
    ]
    assert dated == sorted(dated, key=lambda one: [*map(int, one[0].split("."))], reverse=True)
