"""Presets with a local server: announcements, downloads, refusals and interrupts."""

import functools
import json
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import nbformat
import pytest
import torch
import torchvision.models
import yaml
from nbformat.v4 import new_code_cell

import nbhelpers as nb
from nbhelpers import files
from nbhelpers.checkpoints import entry, fetch, sha256
from nbhelpers.checkpoints.downloads import addresses, fetch_library
from nbhelpers.commands import main
from nbhelpers.networks.resnets import resnet
from nbhelpers.runs import presets, sweeps
from nbhelpers.runs.parameters import read_notebook
from tools import served

NOTEBOOKS = files.notebooks()
# a network's speed is measured once for all tests here
TIMED = functools.cache(presets._timed)
PRESETS = sorted(path.stem for path in presets.FOLDER.glob("*.yaml"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The two files of the preset imagenet-small, written by the real library."""
    if not (served.PEERS / "robustness").is_dir():
        pytest.skip("robustness is not in .peers; `make .peers/.installed` puts it there")
    folder = tmp_path_factory.mktemp("published")
    known = served.knowing("resnet18")
    other = {
        key: 0.5 * tensor if key.startswith("fc.") else tensor for key, tensor in known.items()
    }
    states = {
        folder / f"resnet18_l2_eps{eps}.ckpt": state for eps, state in {0: known, 3: other}.items()
    }
    served.save_as_robustness("resnet18", states)
    yield folder
    for path in folder.iterdir():
        path.unlink()  # 100 MB that pytest would keep for three runs


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NBHELPERS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(presets, "_timed", TIMED)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def server(home, folder, monkeypatch):
    with served.serving(folder) as server:
        monkeypatch.setenv("NBHELPERS_MIRROR", server.address)
        yield server


@pytest.mark.parametrize("name", PRESETS)
def test_presets_name_parameters_and_networks_that_are_there(name):
    values = presets.read_preset(name)
    known = {key for path in NOTEBOOKS for key in read_notebook(path).defaults}
    assert values.keys() <= known
    for key in ("checkpoint", "baseline"):
        assert key not in values or values[key].startswith("torchvision:") or entry(values[key])


def test_a_notebook_gets_what_it_has_parameters_for():
    values = presets.read_preset("imagenet-small")
    zero, five = (presets.parts_of(values, read_notebook(NOTEBOOKS[k]).defaults) for k in (0, 5))
    assert (
        zero["checkpoints"] == ["imagenet-resnet18-l2-0", "imagenet-resnet18-l2-3"]
        and "checkpoint" not in zero
    )
    assert (
        five["n_points"] == values["n_points"]
        and "attack_steps" not in five
        and "checkpoints" not in five
    )


def test_no_such_preset_and_no_such_parameter(capsys, tmp_path):
    assert main(["demo", "--preset", "imagnet"]) == 2
    assert re.match(
        r"error: no preset 'imagnet', and no such file; there are cifar10, cifar10-published, ",
        capsys.readouterr().err,
    )
    assert main(["demo", str(tmp_path), "--preset", "quick", "-p", "stepps=3"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: no notebook has the parameter stepps; there are attack_steps,"
    )
    assert main(["demo", "--only", "77"]) == 2
    assert not list(tmp_path.iterdir())


def test_a_run_says_first_what_it_would_do(server, home, capsys):
    assert (
        main(
            [
                "demo",
                str(home / "out"),
                "--preset",
                "imagenet-small",
                "-p",
                "device=cpu",
                "--dry-run",
            ]
        )
        == 0
    )
    said = capsys.readouterr().out.splitlines()
    size = round((server.folder / "resnet18_l2_eps3.ckpt").stat().st_size / 1e6)
    assert said[0] == (
        f"imagenet-resnet18-l2-3: to download, {size} MB, from "
        f"{server.address}/resnet18_l2_eps3.ckpt"
    )
    assert re.match(
        (
            rf"{len(NOTEBOOKS)} notebooks into .*: at least (\d+ h )?\d+ min on this cpu \([\d.e+]+ "
            r"ms "
            r"and [\d.e+]+ ms per"
        ),
        said[2],
    )
    assert {method for method, *_ in server.asked} == {"HEAD"} and not server.sent
    assert not (home / "out").exists() and not list(home.rglob("*.safetensors"))


def test_where_no_server_answers_the_weights_tell_the_size(home, monkeypatch):
    monkeypatch.setattr(presets, "remote_size", lambda url: 0)
    (one,) = presets.survey({"checkpoint": "imagenet-resnet18-l2-3"}, "cpu")
    assert not one.exact and one.size == pytest.approx(4 * 11.69e6, rel=0.01) and one.seconds > 0
    assert one.address == entry(one.name).urls[0]


RESULT = "import pathlib; pathlib.Path(out, 'result.json').write_text('{\"numbers\": {}}')"


def light(run: sweeps.Run) -> sweeps.Run:
    """A run of only the notebook's parameters, and of a result, in a kernel as any other."""
    notebook = nbformat.reads(run.source, as_version=4)
    (parameters,) = (one for one in notebook.cells if "parameters" in one.metadata.get("tags", []))
    notebook.cells = [parameters, new_code_cell(RESULT)]
    return replace(run, source=nbformat.writes(notebook))


# papermill's and jupyter_client's own warnings
@pytest.mark.filterwarnings("default")
def test_a_preset_from_end_to_end(server, home, capsys, monkeypatch):
    """A broken download and a stopped run resume; a third call does nothing."""
    whole = {path.name: path.stat().st_size for path in server.folder.iterdir()}
    server.cuts[:] = [whole["resnet18_l2_eps3.ckpt"] // 2]
    least = {"steps": 1, "n_images": 1, "n_points": 2, "n_shown": 1, "device": "cpu"}
    command = ["demo", str(home / "out"), "--preset", "imagenet-small", "--only", "2", "5"]
    command += [word for name, value in least.items() for word in ("-p", f"{name}={value}")]

    execute, done = sweeps.execute, []

    def stopped(run, wait):
        if done:
            raise KeyboardInterrupt
        done.append(run.notebook.stem)
        return execute(light(run), wait)

    monkeypatch.setattr(sweeps, "execute", stopped)
    assert main(command) == 130
    # every byte once, except the broken chunk
    assert server.sent < sum(whole.values()) + 2**15
    assert [asked for method, _, asked in server.asked if method == "GET" and asked]
    finished = next((home / "out" / "2_inversion").glob("*/result.json"))
    before, requests = finished.stat().st_mtime_ns, len(server.asked)
    monkeypatch.setattr(sweeps, "execute", execute)
    assert main(command) == 0
    said = capsys.readouterr().out
    assert (
        "imagenet-resnet18-l2-0: here already" in said
        and "1 notebooks into" in said
        and "2 passed, 0 failed" in said
    )
    assert finished.stat().st_mtime_ns == before and len(server.asked) == requests
    (made,) = (home / "out" / "5_interpolation").glob("*/result.json")
    used = json.loads(made.read_text())["parameters"]
    assert used["checkpoint"] == "imagenet-resnet18-l2-3" and used["steps"] == 1
    assert used["dataset"] == "photographs"
    assert re.search(
        r"resnet18-l2-3: \d\d\.\d % of 49 images of photographs are right \(chance 0\.1 %",
        made.with_name("5_interpolation.ipynb").read_text(),
    )


def test_a_wrong_file_is_refused_and_the_published_address_is_next(home, tmp_path, monkeypatch):
    state = resnet("resnet18", width=4, classes=10).state_dict()
    folder = tmp_path / "mirror"
    folder.mkdir()
    torch.save(state, tmp_path / "right.pt")
    torch.save({key: value + 1 for key, value in state.items()}, folder / "cifar_nat.pt")
    about = nb.checkpoints.Entry(
        "theirs", "cifar_nat.pt", "resnet18", sha256=sha256(tmp_path / "right.pt")
    )
    with served.serving(folder) as server:
        monkeypatch.setenv("NBHELPERS_MIRROR", server.address + "/")
        monkeypatch.setattr(
            sys.modules["nbhelpers.checkpoints.downloads"], "entry", lambda name: about
        )
        with pytest.raises(
            OSError, match=r"was not found locally .*cifar_nat.pt is truncated or altered: sha256"
        ):
            fetch("theirs")
        assert not list((tmp_path / "cache").glob("theirs.safetensors"))
        published = tmp_path / "right"
        published.mkdir()
        (tmp_path / "right.pt").rename(published / "cifar_nat.pt")
        with served.serving(published) as right:
            about = nb.checkpoints.Entry(
                **{**vars(about), "urls": (f"{right.address}/cifar_nat.pt",)}
            )
            assert fetch("theirs").exists()
        assert [file for _, file, _ in server.asked] == ["cifar_nat.pt", "cifar_nat.pt"]
    monkeypatch.delenv("NBHELPERS_MIRROR")
    assert addresses("a.pt", ["https://b/a.pt"]) == ["https://b/a.pt"]


def test_torchvisions_weights_resume_and_are_checked(home, tmp_path, monkeypatch):
    folder = tmp_path / "mirror"
    folder.mkdir()
    network = torchvision.models.shufflenet_v2_x0_5()
    torch.save(network.state_dict(), folder / "new.pth")
    name = f"shufflenet-{sha256(folder / 'new.pth')[:8]}.pth"
    (folder / "new.pth").rename(folder / name)
    real = torchvision.models.get_model_weights("shufflenet_v2_x0_5").DEFAULT
    with served.serving(folder) as server:
        url = f"{server.address}/{name}"
        same = SimpleNamespace(
            DEFAULT=SimpleNamespace(url=url, transforms=real.transforms, meta=real.meta)
        )
        monkeypatch.setattr(torchvision.models, "get_model_weights", lambda _: same)
        server.cuts[:] = [100_000]
        assert (
            presets.survey({"baseline": "torchvision:shufflenet_v2_x0_5"}, "cpu")[0].address == url
        )
        model = nb.load_model("torchvision:shufflenet_v2_x0_5", device="cpu")
        # every byte once, except the broken chunk
        assert server.sent < (folder / name).stat().st_size + 2**14
        assert torch.equal(model.head.bias, network.fc.bias)
        assert presets.survey({"baseline": "torchvision:shufflenet_v2_x0_5"}, "cpu")[0].size == 0
        place = fetch_library(url)
        place.write_bytes(place.read_bytes()[:-1])
        with pytest.raises(
            ValueError, match=r"is truncated or altered: its sha256 is not [0-9a-f]{8}…; delete it"
        ):
            fetch_library(url)
        place.unlink()
        (folder / name).write_bytes(b"\x80" + b"other" * 1000)
        with pytest.raises(
            FileNotFoundError, match=r"a wrong file: sha256 .*; put shufflenet-.*.pth by hand into"
        ):
            fetch_library(url)
        assert not place.exists()


def test_the_least_time_grows_with_images_and_steps_whichever_network_is_named():
    speed = {"a": 0.01, "b": 0.01}
    for path in NOTEBOOKS:
        own = read_notebook(path).defaults
        own |= {"checkpoint": "a", "baseline": "b", "checkpoints": ["a", "b"]}
        one, twice = (presets.least_seconds(own | {"steps": k}, speed) for k in (100, 200))
        assert one > 0 and twice == pytest.approx(2 * one), path.stem


def test_presets_are_yaml_of_plain_values():
    for name in PRESETS:
        text = (presets.FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
        assert all(
            isinstance(value, str | int | float | list) for value in yaml.safe_load(text).values()
        )
