"""The exported page in Firefox, where it is installed: it starts, computes what Python computed, and stays silent."""

import importlib.util

import pytest
import torch
from firefox_support import firefox, firefox_path

from nbhelpers import widgets
from nbhelpers.widgets.library import library

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(firefox_path() is None, reason="no Firefox here: install the system's package `firefox-esr`"),
    pytest.mark.skipif(importlib.util.find_spec("websocket") is None, reason="websocket-client is not installed"),
]

PIXELS = """[...document.querySelectorAll('#demo0 .nb-table canvas')].map((canvas) =>
  Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data))"""
SAID = "document.querySelector('#demo0 [data-state] [role=status]').textContent"


def test_the_page_computes_in_firefox(tiny_model, tmp_path):
    try:
        library()
    except ValueError as error:
        pytest.skip(str(error))
    models = {"standard": tiny_model, "robust": tiny_model}
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images = (images * 255).round() / 255
    demo = widgets.brittleness(models, images, steps=3)
    path = widgets.export_page(tmp_path / "page.html", models=models, demos={demo.title: demo}, work=tmp_path / "work")
    (tmp_path / "profile").mkdir()
    with firefox(tmp_path / "profile") as browser:
        browser.open(path)
        browser.wait("document.body.dataset.engine === 'true'")
        browser.wait(f"{SAID} === 'computed beforehand'")
        before = torch.tensor(browser.run(PIXELS)).float()
        browser.run("document.querySelector('#demo0 .watch').click()")
        browser.wait(f"{SAID}.includes('computed here')")
        after = torch.tensor(browser.run(PIXELS)).float()
        assert (before - after).abs().mean() <= 1
        assert not browser.faults
