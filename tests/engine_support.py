"""The page's engine in a browser: TensorFlow.js, engine.js and networks on an empty page."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from nbhelpers.networks.model import Model
from nbhelpers.page.exporting import HERE, LIBRARY
from nbhelpers.page.graphs import export_network
from nbhelpers.page.tensorflow import library
from nbhelpers.widgets.image_picker import front_end

# Convert image batches (n, c, h, w) to the engine's tensors and back. Numbers are sent as base64:
# Playwright takes half a second for a list of ten thousand.
HELPERS = """
const networks = {};
const asSent = ({ shape, values }) => tf.tensor(new Float32Array(bytesOf(values).buffer), shape);
const taken = (image) => tf.transpose(asSent(image), [0, 2, 3, 1]);
const given = (x) => {
  const y = x.shape.length === 4 ? tf.transpose(x, [0, 3, 1, 2]) : x;
  const letters = Array.from(new Uint8Array(y.dataSync().slice().buffer), (byte) => String.fromCharCode(byte));
  return { shape: y.shape, values: btoa(letters.join("")) };
};
"""


@contextmanager
def engine(chrome) -> Iterator:
    """A page with the engine, started.

    Raises:
        ValueError: the library cannot be had.
    """
    files = library()
    page = chrome.new_page()
    page.route("http://localhost/", lambda route: route.fulfill(body=""))
    page.goto("http://localhost/")  # graphics cards are for secure pages only
    try:
        for name in (*LIBRARY, "tf-backend-webgpu.min.js"):
            page.add_script_tag(content=files[name].decode())
        page.add_script_tag(content=front_end("bytes.js", "engine.js", folder=HERE) + HELPERS)
        wasm = base64.b64encode(files["tfjs-backend-wasm-simd.wasm"]).decode()
        assert page.evaluate("(wasm) => Engine.begin(bytesOf(wasm))", wasm)
        yield page
    finally:
        page.close()


def sent(page, name: str, model: Model) -> None:
    """Export a network to the page."""
    page.evaluate(
        "([name, about]) => { networks[name] = new Engine.Network(about); }",
        [name, export_network(model)],
    )


def array(tensor: Tensor) -> dict:
    return {
        "shape": list(tensor.shape),
        "values": base64.b64encode(tensor.contiguous().numpy().tobytes()).decode(),
    }


def tensor(found: dict) -> Tensor:
    values = np.frombuffer(base64.b64decode(found["values"]), dtype=np.float32)
    return torch.from_numpy(values.copy()).reshape(found["shape"])
