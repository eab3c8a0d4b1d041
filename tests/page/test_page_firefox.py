"""The exported page in Firefox, where it is installed: it starts, computes what PyTorch computes,
and stays silent.
"""

import importlib.util

import pytest
import torch
from firefox_support import firefox, firefox_path
from page_support import brittle

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        firefox_path() is None, reason="no Firefox here: install the system's package `firefox-esr`"
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("websocket") is None, reason="websocket-client is not installed"
    ),
]
PIXELS = """[...document.querySelectorAll('#stage .nb-picture > canvas:first-child')].map((canvas) =>
  Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data))"""


def test_the_page_computes_in_firefox_what_pytorch_computes(made, tmp_path):
    (tmp_path / "profile").mkdir()
    with firefox(tmp_path / "profile") as browser:
        browser.open(made.path)
        browser.wait("document.body.dataset.engine === 'wasm'")
        browser.run("location.hash = 'brittle'")
        browser.wait(
            "document.body.dataset.demo === 'brittle' && document.body.dataset.state === 'done'"
        )
        shown = torch.tensor(browser.run(PIXELS)).float().unflatten(1, (32, 32, 4))[..., :3] / 255
        assert not browser.faults
    for k, wanted in enumerate(brittle(made)):
        assert (shown[k + 1].permute(2, 0, 1) - wanted).abs().mean() * 255 <= 3
