"""Pinned versions, workflows, releases, one version everywhere."""

import json
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = (ROOT / "constraints.txt").read_text().splitlines()


def pinned(python: str, system: str = "linux") -> dict[str, str]:
    """Package → version in constraints.txt for a Python and system."""
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


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_do_little_and_ends(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"} and workflow["concurrency"]["group"]
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 60, name
        for step in job["steps"]:
            if "uses" in step:
                where, _, at = step["uses"].partition("@")
                assert where.startswith("./") or re.fullmatch(r"v\d+|release/v\d+", at), step[
                    "uses"
                ]
            # names from outside, such as branches, reach a shell only as variables
            assert "${{" not in step.get("run", ""), step["run"]


def test_every_target_that_a_workflow_makes_is_there() -> None:
    targets = re.findall(r"^([a-z./]+):", (ROOT / "Makefile").read_text(), flags=re.M)
    for path in WORKFLOWS:
        jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values()
        lines = "\n".join(step.get("run", "") for job in jobs for step in job["steps"])
        made = re.findall(r"\bmake ([a-z./]+)", lines)
        assert {*made} <= {*targets, "check"}, path.name


def test_windows_is_tested_with_the_lines_of_the_first_page() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"^```powershell\n(.*?)^```", readme, flags=re.M | re.S)
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    run = [step["run"] for step in workflow["jobs"]["windows"]["steps"] if "run" in step]
    shown = [line.partition("  #")[0] for line in lines.splitlines()]
    assert len(run) == len(shown)
    for line, wanted in zip(run, shown, strict=True):
        assert line.startswith(wanted), f"README has {wanted!r}"


def test_the_types_of_the_javascript_are_checked() -> None:
    for path in (ROOT / "nbhelpers").rglob("*.js"):
        assert path.read_text(encoding="utf-8").startswith("// @ts-check\n"), path.name


def test_the_tools_of_the_javascript_are_pinned_and_no_lock_file_names_a_registry() -> None:
    package = json.loads((ROOT / "package.json").read_text())
    assert all(re.fullmatch(r"[\d.]+", at) for at in package["devDependencies"].values())
    assert package["private"] and not (ROOT / "package-lock.json").exists()
