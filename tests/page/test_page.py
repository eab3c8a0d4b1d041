"""The exported page as a file: what it holds, what it may do, and that it is written whole."""

import html
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from page_support import tiny
from samples import small

from nbhelpers import files
from nbhelpers.commands import main
from nbhelpers.networks.model import Model
from nbhelpers.page import export_page, exporting


def state_of(text):
    return json.loads(re.search(r'id="state">(.*?)</script>', text, re.DOTALL)[1])


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """A page without an engine."""
    path = tmp_path_factory.mktemp("still") / "page.html"
    models = {"robust": tiny(0), "standard": tiny(1)}
    export_page(path, models=models, dataset="photographs", poster_steps=1, engine=False)
    return path.read_text(encoding="utf-8")


def test_every_picture_has_its_own_name_its_author_and_its_licence(still):
    entries = json.loads((files.DATA / "photographs" / "index.json").read_text(encoding="utf-8"))
    visible = html.unescape(re.sub(r"<script.*?</script>", " ", still, flags=re.DOTALL))
    state = state_of(still)
    names = [picture["name"] for picture in state["pictures"]]
    for entry in entries:
        assert entry["author"] in visible and entry["licence"] in visible
        assert entry["source"] in visible
        assert (entry.get("caption") or entry["name"]) in names
    assert len(names) == len(entries)


def test_posters_stand_in_the_page_itself_with_predictions_marked(still):
    state = state_of(still)
    assert len(re.findall(r"<article>.*?<img ", still, re.DOTALL)) == len(state["posters"]) >= 9
    lines = state["posters"]["inversion"]["captions"]
    assert lines[0] == ["Photograph", "giant panda"]
    assert lines[1][1].startswith("robust: ") and lines[2][1].startswith("standard: ")


def test_the_policy_is_strict_and_without_an_engine_stricter(still):
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', still)[1]
    assert "default-src 'none'" in policy and "connect-src" not in policy
    assert not re.search("unsafe-eval|unsafe-inline|worker-src", policy)
    assert "without an engine" in still and not re.search(r'(?:src|href)="(?!data:|http|#)', still)


def test_without_the_library_the_page_says_so_in_a_line(tmp_path, monkeypatch, capsys):
    def none():
        raise ValueError("no npm here")

    monkeypatch.setattr(exporting, "library", none)
    models = {"robust": tiny(0), "standard": tiny(1)}
    path = export_page(tmp_path / "p.html", models=models, dataset="photographs", poster_steps=1)
    assert "No engine: no npm here" in path.read_text(encoding="utf-8")
    assert [line for line in capsys.readouterr().err.splitlines() if "no npm here" in line]


def test_an_unknown_operation_is_refused_by_name_and_leaves_no_file(tmp_path):
    from torch import nn

    models = {"robust": Model(small(nn.InstanceNorm2d(8, affine=True)), image_size=32)}
    with pytest.raises(ValueError, match="InstanceNorm2d"):
        export_page(tmp_path / "page.html", models=models, dataset="photographs")
    assert not list(tmp_path.iterdir())


def test_a_folder_as_path_is_refused_before_anything_is_computed(tmp_path, capsys):
    assert main(["gallery", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err


@pytest.mark.long
def test_a_stopped_page_leaves_no_file_and_what_was_there(tmp_path):
    """Ctrl-C while posters are computed."""
    path = tmp_path / "page.html"
    path.write_text("before")
    code = "import sys; from nbhelpers.commands import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "gallery", str(path), "--dataset", "photographs"]
    # `make test` turns the bars off; tqdm takes any text for yes.
    seen = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=seen) as run:
        until = time.monotonic() + 120
        said = ""
        while "step/s" not in said and "page:" not in said and time.monotonic() < until:
            said += run.stderr.read(1)
        run.send_signal(signal.SIGINT)
        assert run.wait(60) == 130
    assert path.read_text() == "before" and [one.name for one in tmp_path.iterdir()] == [path.name]
