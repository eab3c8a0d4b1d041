"""Optimisation inside a mask: outside pixels are exactly unchanged; masked representation."""

import copy
import math

import pytest
import torch

import nbhelpers as nb

START = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
HARD = torch.zeros(32, 32)
HARD[5:21, 8:28] = 1
SOFT = torch.linspace(0, 1, 32).expand(32, 32).clone()
EACH = torch.stack([HARD.roll(k, 0) for k in range(4)])[:, None]


def painted(model, mask, start=START, component=3, **options):
    goal, project = nb.activate(component), nb.within(mask, start, **options)
    return nb.minimize(
        nb.region(model, mask),
        goal,
        start,
        steps=8,
        solver=nb.Solver(step_size=0.5, keep="last"),
        project=project,
    )


@pytest.mark.parametrize(
    "mask", [HARD, HARD.bool(), HARD[None, None], EACH, SOFT], ids=["1", "bool", "4d", "n", "soft"]
)
@pytest.mark.parametrize("ball", [False, True])
def test_pixels_outside_are_the_sources_bit_for_bit(tiny_model, mask, ball):
    inside = nb.l2_ball(START, 2.0) if ball else nb.box
    result = painted(tiny_model, mask, inside=inside)
    outside = (mask == 0).expand(4, 3, 32, 32)
    assert torch.equal(result.images[outside], START[outside]) and (result.images != START).any()
    assert result.images.min() >= 0 and result.images.max() <= 1
    far = (result.images - START).flatten(1).norm(dim=1)
    assert (far <= 2 + 1e-4).all() if ball else far.max() > 2
    assert (result.loss < result.losses[0]).all()


def test_a_soft_edge_bounds_how_far_a_pixel_moves():
    wild = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 3
    project = nb.within(SOFT, START)
    once = project(wild)
    assert ((once - START).abs() <= SOFT + 1e-6).all() and ((once - START).abs() > 0.1).any()
    # idempotent
    assert torch.equal(project(once), once) and torch.equal(project(START), START)
    assert torch.equal(nb.within(torch.ones(32, 32), START)(wild), nb.box(wild))


def test_the_mask_wins_over_what_leads_elsewhere():
    elsewhere = nb.l2_ball(1 - START, 0.1)
    assert torch.equal(
        nb.within(HARD, START, inside=elsewhere)(START)[..., HARD == 0], START[..., HARD == 0]
    )


def test_a_batch_is_as_many_single_runs(tiny_model):
    model, start = copy.deepcopy(tiny_model).double(), START.double()
    every = painted(model, EACH, start)
    for k in range(4):
        one = painted(model, EACH[k : k + 1], start[k : k + 1])
        torch.testing.assert_close(one.images, every.images[k : k + 1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "mask, message",
    [
        (HARD * 0, "it is empty"),
        (torch.cat([EACH[:3], EACH[:1] * 0]), "it is empty"),
        (torch.ones(16, 16), r"got shape \(16, 16\), wanted \(32, 32\)"),
        (EACH[:2], r"got shape \(2, 1, 32, 32\)"),
        (HARD * 255, "got 0 to 255, wanted 0"),
        (HARD - 0.5, "got -0.5 to 0.5"),
        (HARD * math.nan, "wanted 0"),
    ],
)
def test_a_wrong_mask_is_refused_in_one_line(mask, message):
    with pytest.raises(ValueError, match=message) as raised:
        nb.within(mask, START)
    assert "\n" not in str(raised.value)


def test_a_component_out_of_range_is_refused_in_one_line(tiny_model):
    with pytest.raises(IndexError, match="component: got 32, wanted 0 to 31") as raised:
        painted(tiny_model, HARD, component=32)
    assert "\n" not in str(raised.value)


def test_the_whole_region_is_the_representation(tiny_model):
    everywhere = torch.ones(32, 32)
    torch.testing.assert_close(
        nb.region(tiny_model, everywhere)(START), tiny_model.representation(START)
    )
    maps = tiny_model.representation(START, positions=True)
    torch.testing.assert_close(nb.region(tiny_model, everywhere, positions=True)(START), maps)


def test_a_region_counts_positions_by_the_share_it_covers(tiny_model):
    maps = tiny_model.representation(START, positions=True).unflatten(1, tiny_model.positions)
    mask = torch.zeros(32, 32)
    mask[:8, :8], mask[:8, 8:12] = 1, 1  # one position, and half of the next
    torch.testing.assert_close(
        nb.region(tiny_model, mask)(START), (maps[:, :, 0, 0] * 2 + maps[:, :, 0, 1]) / 3
    )
    found = nb.region(tiny_model, mask, positions=True)(START).unflatten(1, tiny_model.positions)
    torch.testing.assert_close(found[:, :, 0, :2], maps[:, :, 0, :2] * torch.tensor([1, 0.5]))
    assert (found[:, :, 1:] == 0).all() and (found[:, :, 0, 2:] == 0).all()


def test_a_network_without_positions_gives_its_whole_representation():
    torch.manual_seed(0)
    flat = nb.Model(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 8), torch.nn.Linear(8, 3)),
        image_size=32,
    )
    assert torch.equal(nb.region(flat, HARD)(START), flat.representation(START))
    with pytest.raises(ValueError, match="it is empty"):
        nb.region(flat, HARD * 0)
    with pytest.raises(ValueError, match=r"got shape \(32,\)"):
        nb.region(flat, HARD[0])
