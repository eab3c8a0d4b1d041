"""The page on a graphics card, here one in software: it computes what PyTorch computes, is taken
only where it is right and faster, and what runs ends in WebAssembly where it fails.
"""

import functools

import pytest
import torch
from browser_support import NEEDS_CHROMIUM, browser
from engine_support import array, engine
from page_support import Made, brittle, go, opened, plain, shown, wait

import nbhelpers as nb
from nbhelpers.page import export_page
from nbhelpers.page.graphs import export_network

pytestmark = NEEDS_CHROMIUM
ENGINE = "(name) => document.body.dataset.engine === name"
ACCELERATED = """async ([about, wanted]) => {
  try {
    const { network, error } = await Engine.accelerated(about, wanted);
    networks.there = network;
    return [tf.getBackend(), error];
  } catch ({ message }) {
    return ["refused", message];
  }
}"""
RUN = """async ([target, start, options]) => {
  const [to, from] = [taken(target), taken(start)];
  const goal = Engine.match(networks.there.at("map", to));
  for (const { index, images, losses } of Engine.descend(networks.there, goal, from, options)) {
    const [last] = await Engine.read(losses);
    if (index === options.steps) return Array.from(last);
  }
}"""


@pytest.fixture(scope="module")
def graphics():
    with browser(graphics=True) as chrome:
        with engine(chrome) as page:
            if not page.evaluate("async () => Boolean(await navigator.gpu?.requestAdapter())"):
                pytest.skip("this Chromium has no graphics adapter in software")
        yield chrome


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    models = {"robust": plain(0), "standard": plain(1)}
    path = tmp_path_factory.mktemp("plain") / "page.html"
    return Made(export_page(path, models=models, dataset="photographs", poster_steps=1), models)


@pytest.fixture
def page(graphics):
    with engine(graphics) as page:
        yield page


def test_gradients_equal_those_of_webassembly_and_a_descent_ends_where_pytorch_does(page):
    model, n = plain(0), 6
    where, error = page.evaluate(ACCELERATED, [export_network(model), True])
    assert where == "webgpu" and error <= 1e-2
    start = nb.noise(n, size=32, seed=0)
    target = nb.load_images("photographs", indices=range(n), size=32)[0]
    found = page.evaluate(
        RUN, [array(target), array(start), {"place": "map", "steps": 40, "stepSize": 0.2}]
    )
    f = functools.partial(model.representation, positions=True)
    solver = nb.Solver(step_size=0.2, keep="last")
    wanted = nb.minimize(f, nb.match(f(target).detach()), start, steps=40, solver=solver)
    assert abs(torch.tensor(found).mean() / wanted.losses[-1].mean() - 1) <= 0.02


# A kernel of the graphics card that forgets the ReLU.
WRONG = """() => {
  tf.unregisterKernel("Relu", "webgpu");
  tf.registerKernel({
    kernelName: "Relu", backendName: "webgpu",
    kernelFunc: ({ inputs: { x }, backend }) => (backend.incRef(x.dataId), x),
  });
}"""


def test_a_graphics_card_that_computes_wrongly_is_refused_though_it_is_wanted(page):
    page.evaluate(WRONG)
    where, why = page.evaluate(ACCELERATED, [export_network(plain(0)), True])
    assert where == "refused" and "gradient is off by" in why


def test_without_an_adapter_the_engine_says_so(page):
    page.evaluate("() => { navigator.gpu.requestAdapter = async () => null; }")
    where, why = page.evaluate(ACCELERATED, [export_network(plain(0)), True])
    assert where == "refused" and "no graphics adapter" in why


def said(page):
    return page.locator("#runs").text_content()


def test_the_page_runs_on_the_graphics_card_and_goes_on_without_it(graphics, made):
    """The device is lost in mid-run; the run ends in WebAssembly, where PyTorch's ends."""
    with opened(graphics, made.path, query="?engine=webgpu") as page:
        page.wait_for_function(ENGINE, arg="webgpu", timeout=120_000)
        assert said(page).count("WebGPU (5 steps: ") == 2
        go(page, "brittle", "running")
        page.wait_for_function("() => document.querySelector('#bar').value > 0")
        for worker in page.workers:
            worker.evaluate(
                "() => { if (tf.getBackend() === 'webgpu') tf.backend().device.destroy(); }"
            )
        page.wait_for_function(ENGINE, arg="wasm")
        assert said(page).count("the graphics card was lost") == 2
        wait(page, "brittle")
        for k, wanted in enumerate(brittle(made)):
            found = torch.from_numpy(shown(page)[k + 1]).permute(2, 0, 1) / 255
            assert (found - wanted).abs().mean() * 255 <= 2


def test_a_slower_graphics_card_is_left_alone(graphics, made):
    with opened(graphics, made.path) as page:
        page.wait_for_function(
            "() => document.querySelector('#runs').textContent.includes('takes longer')",
            timeout=120_000,
        )
        assert said(page).count("WebAssembly (the graphics card takes longer") == 2
        assert page.evaluate("() => document.body.dataset.engine") == "wasm"


def test_without_an_adapter_webassembly_goes_on(graphics, made):
    script = "navigator.gpu.requestAdapter = async () => null"
    with opened(graphics, made.path, query="?engine=webgpu", script=script) as page:
        wait(page, "inversion")
        page.wait_for_timeout(500)
        assert page.evaluate("() => document.body.dataset.engine") == "wasm"
        assert said(page).count("runs in WebAssembly") == 2 and len(page.workers) == 2
