"""The demo of inpainting: fills, fixed pixels, and the growing hole."""

import pytest
import torch
from test_depths import shown

import nbhelpers as nb
from nbhelpers import widgets
from nbhelpers.networks.resnets import resnet
from nbhelpers.widgets.filled import hole_psnr, rim_filled

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def models() -> dict[str, nb.Model]:
    made = {}
    for seed, label in enumerate(("standard", "robust")):
        torch.manual_seed(seed)
        made[label] = nb.Model(resnet("resnet18", width=4), image_size=32)
    return made


@pytest.fixture
def demo(models) -> widgets.Demo:
    return widgets.inpainting(models, IMAGES, ["panda", "hammer", "sheep"], steps=5, seed=3)


def test_the_hole_is_filled_from_the_representation_outside_it(demo, models):
    image, hole, model = IMAGES[:1], demo.pickers[1].hole.float(), models["robust"]
    assert hole[8:24, 8:24].all() and hole.sum() == 16 * 16
    rest = nb.region(model, 1 - hole, positions=True)
    result = nb.minimize(
        rest,
        nb.match(rest(image)),
        torch.where(hole > 0, nb.noise(1, seed=3), image),
        steps=5,
        solver=nb.Solver(step_size=widgets.settings.FILLING.step(5, image), keep="last"),
        project=nb.within(hole, image),
    )
    robust, standard, null = shown(demo)[0]
    assert demo.live.columns == ["robust", "standard", "rim's mean colour"]
    assert (robust - result.images[0]).abs().max() <= 3 / 255
    for picture in (robust, standard, null):
        assert (picture - image[0])[:, hole == 0].abs().max() <= 1 / 255
    assert null[:, 10, 10].allclose(null[:, 20, 20]) and not torch.equal(robust, standard)


def test_captions_have_the_psnr_its_null_and_the_other_networks_prediction(demo):
    ((robust, standard, null),) = demo.live.result["captions"]
    assert " dB in the hole\nstandard: " in robust and " dB in the hole\nrobust: " in standard
    null_value = hole_psnr(
        rim_filled(IMAGES[:1], demo.pickers[1].hole.float()), IMAGES[:1], demo.pickers[1].hole
    )
    assert null == f"{null_value:.1f} dB in the hole"


def test_strokes_make_the_hole_larger_and_undo_remembers_the_result(demo):
    picker, live = demo.pickers[1], demo.live
    first = live.result["sheet"]
    mask = torch.zeros(32, 32, dtype=torch.uint8)
    mask[:4, :4] = 255
    picker._handle_custom_msg({"type": "stroke"}, [memoryview(mask.numpy().tobytes())])
    live.compute(demo.pick)
    assert picker.done == 1 and picker.hole.sum() == 16 * 16 + 16 and picker.selected == 1
    assert live.result["sheet"] != first and picker.mask[0] == 255
    picker._handle_custom_msg({"type": "undo"}, [])
    assert picker.done == 0 and picker.selected == 0 and live.result["sheet"] == first
    picker.undo()  # nothing is left to undo
    picker._handle_custom_msg({"type": "stroke"}, [memoryview(mask.numpy().tobytes())])
    picker._handle_custom_msg({"type": "reset"}, [])
    assert picker.selected == 0 and repr(picker) == "HolePicker(0 strokes)"


def test_another_picture_keeps_the_hole(demo):
    picker, holes = demo.pickers
    before, mask = holes.picture, holes.mask
    picker.selected = 2
    demo.live.compute(demo.pick)
    assert holes.picture == picker.thumbnails[2] != before and holes.mask == mask
    assert (shown(demo)[0, 0] - IMAGES[2])[:, ~holes.hole].abs().max() <= 1 / 255


def test_a_hole_that_leaves_nothing_is_refused(demo):
    picker = demo.pickers[1]
    whole = torch.full((32, 32), 255, dtype=torch.uint8)
    picker._handle_custom_msg({"type": "stroke"}, [memoryview(whole.numpy().tobytes())])
    assert picker.message == "the hole would cover the whole picture; leave a part of it"
    assert picker.selected == 0
    with pytest.raises(ValueError, match=r"got shape \(8, 8\), wanted \(32, 32\)"):
        picker.stroke(torch.ones(8, 8))
