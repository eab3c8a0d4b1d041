"""The exported page in Firefox, where it is installed: it starts, computes what Python computed,
and stays silent.
"""

import importlib.util

import pytest
import torch
from firefox_support import firefox, firefox_path

import nbhelpers as nb
from nbhelpers import widgets
from nbhelpers.page.tensorflow import library

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        firefox_path() is None, reason="no Firefox here: install the system's package `firefox-esr`"
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("websocket") is None, reason="websocket-client is not installed"
    ),
]

PIXELS = """[...document.querySelectorAll('#demo{} .nb-table canvas')].map((canvas) =>
  Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data))"""
SAID = "document.querySelector('#demo{} [data-state] [role=status]').textContent"


def test_the_page_computes_in_firefox_what_python_computed(tmp_path):
    try:
        library()
    except ValueError as error:
        pytest.skip(str(error))
    names = {"standard": "cifar10-standard", "robust": "cifar10-l2-0.5"}
    models = {label: nb.load_model(name, device="cpu") for label, name in names.items()}
    images, labels = nb.load_images("cifar10-sample", indices=range(12))
    made = [  # both objectives, from noise; and the ball
        widgets.inversion(models, images[:1], labels[:1], steps=20),
        widgets.feature_visualization(models, images, labels, components=1, steps=20),
        widgets.brittleness(models, images[:2], labels[:2], steps=20),
    ]
    demos = {demo.title: demo for demo in made}
    path = nb.page.export_page(
        tmp_path / "page.html", models=models, demos=demos, work=tmp_path / "work"
    )
    (tmp_path / "profile").mkdir()
    with firefox(tmp_path / "profile") as browser:
        browser.open(path)
        browser.wait("document.body.dataset.engine === 'true'")
        for k in range(len(demos)):
            browser.wait(f"{SAID.format(k)} === 'computed beforehand'")
            before = torch.tensor(browser.run(PIXELS.format(k))).float()
            browser.run(f"document.querySelector('#demo{k} .watch').click()")
            browser.wait(f"{SAID.format(k)}.includes('computed here')")
            after = torch.tensor(browser.run(PIXELS.format(k))).float()
            # a fourth number, the opacity, is the same
            apart = float((before - after).abs().mean() * 4 / 3)
            print(list(demos)[k], round(apart, 2))
            assert apart <= 3
        assert not browser.faults
