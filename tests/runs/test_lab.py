"""`nbhelpers lab` and `nbhelpers notebooks` copy notebooks and overwrite nothing."""

import io
import sys
from pathlib import Path

import pytest
from jupyterlab.labapp import LabApp

from nbhelpers import files
from nbhelpers.commands import main

NAMES = sorted(path.name for path in files.notebooks())


class Terminal(io.StringIO):
    """A terminal with typed input."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Records JupyterLab's options without starting it."""
    calls: list[list[str]] = []
    monkeypatch.setattr(LabApp, "launch_instance", calls.append)
    return calls


def held(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_folder_gets_all_notebooks(tmp_path: Path) -> None:
    assert main(["notebooks", str(tmp_path / "mine")]) == 0
    assert held(tmp_path / "mine") == NAMES
    for name in NAMES:
        assert (tmp_path / "mine" / name).read_bytes() == (files.NOTEBOOKS / name).read_bytes()


def test_lab_opens_the_copy_and_hands_options_on(
    tmp_path: Path, opened: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["lab", "--no-browser", "--port=9000"]) == 0
    folder = tmp_path / "robust-representations"
    assert opened == [[f"--ServerApp.root_dir={folder}", "--no-browser", "--port=9000"]]
    assert held(folder) == NAMES


def test_a_second_call_neither_asks_nor_overwrites(
    tmp_path: Path, opened: list, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    assert main(["lab", str(folder)]) == 0
    (folder / NAMES[2]).write_text("mine")
    (folder / "notes.txt").write_text("mine too")
    capsys.readouterr()
    assert main(["lab", str(folder)]) == 0 and len(opened) == 2
    assert (folder / NAMES[2]).read_text() == "mine"
    assert f"kept, though they differ: {NAMES[2]}\n" in capsys.readouterr().out


@pytest.mark.parametrize(("answer", "status"), [("y", 0), ("", 1), ("no", 1)])
def test_it_asks_before_it_adds_to_other_files(
    answer: str, status: int, tmp_path: Path, opened: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / NAMES[0]).write_text("mine")
    monkeypatch.setattr(sys, "stdin", Terminal(f"{answer}\n"))
    assert main(["lab", str(tmp_path)]) == status
    assert held(tmp_path) == (NAMES if status == 0 else NAMES[:1])
    assert (tmp_path / NAMES[0]).read_text() == "mine"
    assert len(opened) == (status == 0)


def test_where_nobody_answers_it_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main(["notebooks", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err and held(tmp_path) == ["notes.txt"]
    assert main(["notebooks", str(tmp_path), "--yes"]) == 0
    assert held(tmp_path) == sorted([*NAMES, "notes.txt"])


def test_what_it_cannot_do_is_said_in_a_line(
    tmp_path: Path, opened: list, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for words in (
        ["notebooks", str(tmp_path / "file")],
        ["lab", str(tmp_path / "mine"), "--port", "9000"],
        ["lab", "--port", "9000"],
        ["lab", str(tmp_path / "file" / "below")],
    ):
        assert main(words) == 2
        assert capsys.readouterr().err.startswith("error: ")
    assert not opened
