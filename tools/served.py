"""Substitutes for published files: written by the original library, served from this machine.

Weights are random except the last layer, fitted to most photographs, so that the network passes the
check of imported networks and errs on some images.
"""

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import torch
import torchvision.models
from torch import Tensor

import nbhelpers as nb

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / ".peers"


def knowing(architecture: str, *, size: int = 224, seed: int = 0) -> dict[str, Tensor]:
    """The state dict of a random torchvision network whose head is fitted to 40 photographs."""
    torch.manual_seed(seed)
    network = torchvision.models.get_model(architecture, weights=None)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # cumulative statistics, else activations explode or vanish
    facts = nb.checkpoints.dataset_facts("imagenet")
    images, labels = nb.load_images(
        "photographs", indices=[i for i in range(49) if i % 6], size=size
    )
    mean, std = (torch.tensor(facts[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        for part in images.split(10):
            network((part - mean) / std)
    network.eval()
    features = nb.represent(
        nb.Model(network, mean=facts["mean"], std=facts["std"], image_size=size), images
    )
    wanted, offset = 10 * torch.nn.functional.one_hot(labels, 1000).float(), features.mean(0)
    weight = torch.linalg.lstsq(features - offset, wanted - 1, driver="gelsd").solution.T
    network.fc.weight.data, network.fc.bias.data = weight.contiguous(), 1 - weight @ offset
    return network.state_dict()


def save_as_robustness(architecture: str, states: Mapping[Path, dict[str, Tensor]]) -> None:
    """Write state dicts with the `robustness` library, in another process.

    Raises:
        RuntimeError: the library failed.
    """
    for path, state in states.items():
        np.savez(path.with_suffix(".npz"), **{key: tensor.numpy() for key, tensor in state.items()})
    script = ROOT / "tests" / "peers" / "robustness_saves.py"
    environment = {**os.environ, "PYTHONPATH": str(PEERS), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(script), architecture, *map(str, states)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    for path in states:
        path.with_suffix(".npz").unlink()
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])


@dataclass
class Server:
    """A server's folder, and its log of requests."""

    folder: Path
    cuts: list[int] = field(default_factory=list)  # bytes after which the next connections close
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # method, file, range
    sent: int = 0  # bytes
    address: str = ""


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Serve a folder on this machine, with ranges and broken connections."""
    state = Server(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            asked, path = self.headers.get("Range") or "", state.folder / self.path.lstrip("/")
            state.asked.append((self.command, path.name, asked))
            if not path.is_file():
                return self.send_error(404)
            data = path.read_bytes()
            found = re.match(r"bytes=(\d+)-", asked)
            start = int(found[1]) if found else 0
            self.send_response(206 if start else 200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(len(data) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            if body:
                end = min(len(data), start + state.cuts.pop(0)) if state.cuts else len(data)
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(data[start:end])
                state.sent += end - start
                self.close_connection = self.close_connection or end < len(data)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(
        target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
    )
    thread.start()
    state.address = f"http://127.0.0.1:{http.server_port}"
    try:
        yield state
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
