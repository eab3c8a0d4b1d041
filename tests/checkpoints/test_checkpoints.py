"""Checkpoints by name: the manifest, its files, and downloads from a faulty server."""

import hashlib
import json
import multiprocessing
import os
import re
import threading
import time
import tomllib
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from samples import HALF

from nbhelpers import files
from nbhelpers.checkpoints import (
    Entry,
    entry,
    fetch,
    manifest,
    read_weights,
    save_checkpoint,
    sha256,
    write_entry,
)
from nbhelpers.checkpoints.downloads import weights_sha256
from nbhelpers.networks import load_model, resnet

STATE = {
    "conv1.weight": torch.linspace(-1, 1, 30_000).reshape(100, 300),
    "linear.bias": torch.arange(3.0),
}
HTML = b"<!DOCTYPE html><html><title>404</title></html>"


@dataclass
class Server:
    """Serves `files`; closes each connection after the next of `cuts` bytes; `slow` in seconds."""

    files: dict[str, bytes] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    slow: float = 0.0
    ranges: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    address: str = ""

    def url(self, name: str) -> str:
        return f"{self.address}/{name}"


@pytest.fixture
def server(monkeypatch):
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            state.requests.append((self.path, asked))
            data = state.files.get(self.path[1:])
            if data is None:
                return self.send_error(404)
            start = int(re.match(r"bytes=(\d+)-", asked)[1]) if asked and state.ranges else 0
            if start >= len(data):
                return self.send_error(416)
            self.send_response(206 if start else 200)
            self.send_header(
                "Content-Type", state.types.get(self.path[1:], "application/octet-stream")
            )
            self.send_header("Content-Length", str(len(data) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            end = min(len(data), start + state.cuts.pop(0)) if state.cuts else len(data)
            for at in range(start, end, 20_000):
                self.wfile.write(data[at : min(at + 20_000, end)])
                threading.Event().wait(state.slow)
            if end < len(data):
                self.close_connection = True

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(
        target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    state.address = f"http://127.0.0.1:{http.server_port}"
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Empty checkpoints folder and cache; no wait between attempts."""
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setattr(files, "CHECKPOINTS", tmp_path / "checkpoints")
    monkeypatch.setenv("NBHELPERS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    return tmp_path


@pytest.fixture
def published(tmp_path):
    """A file in the robustness format."""
    path = tmp_path / "published.pt"
    model = {f"module.model.{key}": value for key, value in STATE.items()}
    scales = {
        "module.normalizer.new_mean": torch.full((3, 1, 1), 0.5),
        "module.normalizer.new_std": torch.ones(3, 1, 1),
    }
    torch.save({"model": model | scales, "epoch": 1}, path)
    return path.read_bytes()


def about(*urls: str, **more) -> Entry:
    return Entry("net", "net.pt", "resnet18", urls=urls, **more)


def same(path) -> bool:
    state = read_weights(path).state
    return state.keys() == STATE.keys() and all(
        torch.equal(state[key], STATE[key]) for key in STATE
    )


# The manifest


@pytest.mark.parametrize("name", ["cifar10-standard", "cifar10-l2-0.5"])
def test_shipped_checkpoints_are_what_the_manifest_says(name):
    weights = read_weights(fetch(name))
    assert (
        len(weights.state) == 122
        and entry(name).image_size == 32
        and len(entry(name).classes) == 10
    )
    assert entry(name).accuracy["clean"] > 50 and entry(name).training["epochs"]


def test_published_entries_are_complete():
    entries = manifest()
    names = {
        "cifar10-madry-l2-0.5",
        "imagenet-l2-3.0",
        "restricted-imagenet-l2-3.0",
        "imagenet-resnet18-l2-0",
    }
    assert names <= entries.keys()
    for one in entries.values():
        assert (
            len(one.mean) == len(one.std) == 3 and one.image_size and one.training and one.dataset
        )
        assert (files.CHECKPOINTS / one.file).exists() or one.urls
        assert all(url.startswith(("https://", "http://")) for url in one.urls)
        assert one.verified in (
            "real weights",
            "weights written by the real library",
            "documented format only",
        )
        assert one.urls or one.verified == "real weights"
    assert entries["cifar10-madry-l2-0.5"].std == (0.2023, 0.1994, 0.2010)
    assert (
        len(entry("imagenet-l2-3.0").classes) == 1000
        and len(entries["restricted-imagenet-l2-3.0"].classes) == 9
    )


def test_unknown_name_lists_the_near_ones():
    with pytest.raises(ValueError, match=r"'cifar10-l2-05'; near names: .*cifar10-l2-0\.5"):
        entry("cifar10-l2-05")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[net]\nfile = 'a'\narchitecture = 'b'\nwidth = 3\n", r"unknown fields \['width'\]"),
        ("[net]\nfile = 'a'\n", "architecture"),
        ("[net]\nfile = 3\narchitecture = 'b'\n", "file is 3"),
        ("[net\n", "cannot read the manifest"),
    ],
)
def test_a_bad_manifest_says_what_is_wrong(home, text, message):
    (home / "checkpoints" / "manifest.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        manifest()


def test_altered_and_truncated_files_are_refused(home):
    save_checkpoint("net", STATE, about())
    path = fetch("net")
    whole = path.read_bytes()
    for data in (whole[:-1], whole[:-1] + b"\x01"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"net\.safetensors is truncated or altered"):
            fetch("net")


def test_saving_writes_weights_and_entry(home):
    head = "# Kept.\n\n[datasets.toy]\nclasses = ['a', 'b']\nimage_size = 8\n"
    head += "\n[other]\nfile = 'x'\narchitecture = 'y'  # why\n"
    (home / "checkpoints" / "manifest.toml").write_text(head)
    told = about(
        arguments={"width": 4},
        dataset="toy",
        classes=("a", "b"),
        image_size=8,
        accuracy={"l2": {"0.5": 1.5}},
    )
    written = save_checkpoint("net-0.5", STATE, replace(told, training={"eps": 0.0, "seed": 0}))
    assert written == manifest()["net-0.5"] and written.sha256 == sha256(fetch("net-0.5"))
    text = (home / "checkpoints" / "manifest.toml").read_text()
    assert text.startswith(head) and tomllib.loads(text)["net-0.5"].keys().isdisjoint(
        {"classes", "image_size"}
    )
    weights = read_weights(fetch("net-0.5"))
    assert (
        same(fetch("net-0.5"))
        and weights.entry.arguments == {"width": 4}
        and weights.entry.classes == ("a", "b")
    )
    again = save_checkpoint("net-0.5", STATE, replace(told, training={"eps": 0.0, "seed": 0}))
    assert again == written and (home / "checkpoints" / "manifest.toml").read_text() == text
    write_entry(replace(written, accuracy={"clean": 12.5}))
    assert (
        manifest()["net-0.5"].accuracy == {"clean": 12.5}
        and "# why" in (home / "checkpoints" / "manifest.toml").read_text()
    )


def test_saving_to_a_path_leaves_the_manifest_alone(home):
    written = save_checkpoint(
        home / "runs" / "mine.safetensors", STATE, about(mean=(0.1,), std=(0.2,))
    )
    weights = read_weights(home / "runs" / "mine.safetensors")
    assert (
        weights.entry.name == written.name == "mine"
        and weights.mean == (0.1,)
        and weights.std == (0.2,)
    )
    assert os.listdir(home / "checkpoints") == [] and os.listdir(home / "runs") == [
        "mine.safetensors"
    ]


def test_own_keys_come_back_as_they_were(home):
    """User networks may name submodules model, module or mean."""
    state = {"model.module.weight": torch.ones(2, 2), "model.mean": torch.zeros(3)}
    save_checkpoint("net", state, about())
    weights = read_weights(fetch("net"))
    assert weights.state.keys() == state.keys() and weights.mean is None


def _save(folder, number):
    files.CHECKPOINTS = folder
    for i in range(3):
        save_checkpoint(f"net{number}{i}", {"w": torch.full((2,), float(number))}, about())


def test_processes_that_save_at_once_lose_nothing(home):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_save, args=(home / "checkpoints", i)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert sorted(manifest()) == sorted(f"net{n}{i}" for n in range(4) for i in range(3))


# Downloads


def test_a_download_is_checked_recorded_and_converted(home, server, published):
    server.files["net.pt"] = published
    write_entry(about(server.url("net.pt")))
    path = fetch("net")
    assert (
        same(path)
        and path == home / "cache" / "net.safetensors"
        and read_weights(path).mean == (0.5, 0.5, 0.5)
    )
    assert "module.model.* -> *" in read_weights(path).report
    assert (
        json.loads((home / "cache" / "net.json").read_text())["sha256"]
        == hashlib.sha256(published).hexdigest()
    )
    assert fetch("net") == path and len(server.requests) == 1
    path.write_bytes(path.read_bytes()[:-4] + b"oops")
    with pytest.raises(ValueError, match="truncated or altered"):
        fetch("net")
    path.unlink()
    server.files["net.pt"] = published.replace(b"linear", b"lineal")  # the same name, another file
    with pytest.raises(FileNotFoundError, match="truncated or altered"):
        fetch("net")


def test_a_slow_connection_that_breaks_is_resumed(home, server, published):
    server.files["net.pt"] = published
    server.slow, server.cuts = 0.01, [len(published) // 4] * 3
    write_entry(
        about(
            server.url("net.pt"), sha256=hashlib.sha256(published).hexdigest(), size=len(published)
        )
    )
    assert same(fetch("net"))
    starts = [int(asked[6:-1]) for _, asked in server.requests[1:]]
    assert len(starts) == 3 and starts == sorted(starts) and starts[0] > 0


def test_a_later_call_goes_on_where_an_earlier_one_broke(home, server, published):
    server.files["net.pt"] = published
    write_entry(about(server.url("net.pt")))
    server.cuts = [50_000, 0, 0, 0]
    with pytest.raises(
        FileNotFoundError, match=r"kept breaking.*get net\.pt by hand and put it into .*cache"
    ):
        fetch("net")
    server.requests.clear()
    assert same(fetch("net")) and 30_000 < int(server.requests[0][1][6:-1]) <= 50_000


def test_a_server_without_ranges_starts_again(home, server, published):
    server.files["net.pt"] = published
    server.ranges, server.cuts = False, [60_000]
    write_entry(about(server.url("net.pt")))
    assert same(fetch("net")) and len(server.requests) == 2


def test_a_left_over_that_does_not_fit_is_dropped(home, server, published):
    server.files["net.pt"] = published
    write_entry(about(server.url("net.pt")))
    (home / "cache").mkdir()
    part = hashlib.sha256(server.url("net.pt").encode()).hexdigest()[:8]
    (home / "cache" / f".net.pt.{part}.part").write_bytes(published + b"more")
    assert same(fetch("net"))


def test_mirrors_are_tried_in_order(home, server, published):
    server.files |= {
        "page.pt": HTML,
        "short.pt": published[:-9],
        "other.pt": b"PK" + published[2:],
        "good.pt": published,
    }
    server.types["page.pt"] = "text/html"
    names = ["gone.pt", "page.pt", "short.pt", "other.pt", "good.pt"]
    write_entry(
        about(
            *map(server.url, names),
            sha256=hashlib.sha256(published).hexdigest(),
            size=len(published),
        )
    )
    server.files["other.pt"] = published[:-1] + b"!"
    assert same(fetch("net"))
    assert [path[1:] for path, _ in server.requests] == names
    assert not [one for one in os.listdir(home / "cache") if "page" in one]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gone.pt", "404"),
        ("page.pt", "an HTML page instead of weights"),
        ("sly.pt", "an HTML page instead of weights"),
        ("lfs.pt", "a Git LFS pointer"),
        ("short.pt", "wrong size: "),
        ("other.pt", "truncated or altered: sha256"),
    ],
)
def test_each_refusal_is_one_clear_line(home, server, published, name, reason):
    server.files = {
        "page.pt": HTML,
        "sly.pt": HTML,
        "lfs.pt": b"version https://git-lfs.github.com/spec/v1\n",
        "short.pt": published[:-9],
        "other.pt": published[:-1] + b"!",
    }
    server.types["page.pt"] = "text/html; charset=utf-8"
    write_entry(
        about(server.url(name), sha256=hashlib.sha256(published).hexdigest(), size=len(published))
    )
    with pytest.raises(FileNotFoundError) as error:
        fetch("net")
    message = str(error.value)
    assert reason in message and "net.pt by hand and put it into" in message and "\n" not in message
    assert not (home / "cache" / "net.pt").exists() and not (home / "cache" / "net.json").exists()


def test_an_unknown_wrong_file_is_not_recorded(home, server):
    """Without a sha256, a file must at least be a readable checkpoint."""
    server.files["net.pt"] = b"PK\x03\x04 something else"
    write_entry(about(server.url("net.pt")))
    with pytest.raises(FileNotFoundError, match="cannot be read as a checkpoint"):
        fetch("net")
    assert not (home / "cache" / "net.json").exists()


def test_a_file_put_there_by_hand_needs_no_connection(home, published):
    write_entry(about("http://127.0.0.1:9/net.pt"))
    with pytest.raises(FileNotFoundError, match=r"get net\.pt by hand and put it into .*cache"):
        fetch("net")
    (home / "cache" / "net.pt").write_bytes(published)
    assert same(fetch("net")) and (home / "cache" / "net.pt").exists()


def test_a_proxy_is_used(home, server, published, monkeypatch):
    """The server acts as a proxy: requests have the full address."""
    server.files["http://weights.invalid/net.pt"[1:]] = published
    monkeypatch.setenv("http_proxy", server.address)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    write_entry(about("http://weights.invalid/net.pt"))
    assert same(fetch("net")) and server.requests[0][0] == "http://weights.invalid/net.pt"


def _fetch(folder, cache, name):
    files.CHECKPOINTS = folder
    os.environ["NBHELPERS_CACHE"] = str(cache)
    fetch(name)


def test_processes_that_download_at_once_do_it_once(home, server, published):
    server.files["net.pt"], server.slow = published, 0.02
    write_entry(about(server.url("net.pt")))
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(
            target=_fetch, args=(home / "checkpoints", home / "cache", "net"), daemon=True
        )
        for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert len(server.requests) == 1 and same(home / "cache" / "net.safetensors")


def test_a_compiled_part_inside_another_module_is_read(tmp_path, capsys):
    network = resnet("resnet18", width=4, classes=5)
    torch.save(
        {f"net._orig_mod.{key}": value for key, value in network.state_dict().items()},
        tmp_path / "m.pt",
    )
    model = load_model(tmp_path / "m.pt", architecture=network, dataset=HALF, device="cpu")
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(
        model(images), network.eval()((images - 0.5) / 0.25), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("where", ["state.model", "checkpoint.state_dict", "mine.weights"])
def test_a_table_in_a_table_is_read(where, tmp_path, capsys):
    outer, inner = where.split(".")
    one, other = (resnet("resnet18", width=4, classes=5) for _ in range(2))
    table = {
        outer: {inner: one.state_dict(), "epoch": 3},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}},
    }
    torch.save(table, tmp_path / "m.pt")
    images = torch.rand(2, 3, 32, 32)
    model = load_model(tmp_path / "m.pt", dataset=HALF, device="cpu")
    torch.testing.assert_close(
        model(images), one.eval()((images - 0.5) / 0.25), atol=1e-5, rtol=1e-4
    )
    table[outer]["ema"] = other.state_dict()
    torch.save(table, tmp_path / "m.pt")
    model = load_model(f"{tmp_path}/m.pt#{outer}.ema", dataset=HALF, device="cpu")
    torch.testing.assert_close(
        model(images), other.eval()((images - 0.5) / 0.25), atol=1e-5, rtol=1e-4
    )


def test_one_of_several_networks_in_a_file_has_the_file_s_digest(tmp_path):
    (tmp_path / "m.pt").write_bytes(b"weights")
    assert weights_sha256(f"{tmp_path}/m.pt#ema") == weights_sha256(tmp_path / "m.pt") != ""
