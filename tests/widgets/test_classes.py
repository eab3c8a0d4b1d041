"""The demo of classes: drawings, judges and common classes."""

import pytest
import torch
from test_depths import shown
from traitlets import TraitError

import nbhelpers as nb
from nbhelpers import widgets
from nbhelpers.networks.resnets import resnet

NAMES = [f"kind {k}" for k in range(10)]


def network(seed: int, names: list[str], size: int | None = 32) -> nb.Model:
    torch.manual_seed(seed)
    return nb.Model(resnet("resnet18", width=4), image_size=size, classes=names)


@pytest.fixture(scope="module")
def models() -> dict[str, nb.Model]:
    return {"standard": network(0, NAMES), "robust": network(1, NAMES[::-1])}


def test_a_drawing_is_the_logit_raised_from_faint_noise(models):
    demo = widgets.classes(models, steps=5, seed=2)
    assert demo.live.columns == ["robust", "standard"]
    model, start = models["robust"], 0.5 + 0.25 * (nb.noise(1, seed=2) - 0.5)
    picked = demo.pickers[0].names[0]
    assert picked == "kind 9"  # the robust network's first class
    result = nb.minimize(
        model,
        nb.activate(model.classes.index(picked)),
        start,
        steps=5,
        solver=nb.Solver(step_size=widgets.settings.CLASSES.step(5, start), keep="last"),
    )
    assert (shown(demo)[0, 0] - result.images[0]).abs().max() <= 3 / 255
    other = models["standard"]
    sees = other.classes[int(nb.predict(other, result.images))]
    (texts,) = demo.live.result["captions"]
    assert texts[0] == f"standard: {sees}\nlogit {-result.loss.item():.1f}"
    assert texts[1].startswith("robust: kind ") and result.losses[-1] < result.losses[0]


def test_a_pick_by_name_draws_that_class(models):
    demo = widgets.classes(models, steps=2)
    before, picker = shown(demo), demo.pickers[0]
    picker.unobserve_all("selected")
    picker.selected = picker.names.index("kind 3")
    demo.live.compute(demo.pick)
    assert not torch.equal(shown(demo), before) and demo.live.small
    with pytest.raises(TraitError, match="wanted 0 to 9"):
        picker.selected = 10
    assert repr(picker) == "ClassPicker(10 names, selected=6)"


def test_only_classes_of_all_networks_are_there(models):
    fewer = network(3, [*NAMES[:4], *(f"other {k}" for k in range(6))])
    assert set(widgets.classes(models | {"robust 2": fewer}, steps=1).pickers[0].names) == set(
        NAMES[:4]
    )
    foreign = network(3, [f"other {k}" for k in range(10)])
    with pytest.raises(ValueError, match="have no class in common"):
        widgets.classes({"robust": models["robust"], "standard": foreign})


def test_the_size_must_be_known(models):
    free = network(0, NAMES, size=None)
    with pytest.raises(ValueError, match=r"pixels; give size="):
        widgets.classes({"robust": free})
    assert shown(widgets.classes({"robust": free}, size=24, steps=1)).shape[-2:] == (24, 24)
