"""Objectives are independent losses per image; errors are one line."""

import numpy as np
import pytest
import torch

import nbhelpers as nb
from nbhelpers import objectives
from nbhelpers.objectives import margin
from nbhelpers.representation import contributions


def test_match_is_the_normalised_distance() -> None:
    target = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert torch.allclose(nb.match(target)(torch.zeros(2, 2)), torch.ones(2))
    assert torch.allclose(nb.match(target)(target), torch.zeros(2))
    assert nb.match(target[:1])(torch.zeros(5, 2)).shape == (5,)


def test_leave_grows_with_the_distance() -> None:
    assert torch.allclose(
        nb.leave(torch.zeros(2, 2))(torch.tensor([[3.0, 4.0], [0.0, 2.0]])),
        torch.tensor([-5.0, -2]),
    )


def test_activate_takes_one_component_or_one_per_image_and_stops_at_the_ceiling() -> None:
    features = torch.tensor([[1.0, 5.0], [2.0, 3.0]], requires_grad=True)
    assert nb.activate(1)(features).tolist() == [-5, -3]
    assert nb.activate(torch.tensor([0, 1]))(features).tolist() == [-1, -3]
    capped = nb.activate(1, ceiling=4.0)(features)
    assert capped.tolist() == [-4, -3]
    capped.sum().backward()
    assert features.grad.tolist() == [[0, 0], [0, -1]]  # the first is at its ceiling


def test_misclassify_rises_for_sure_answers() -> None:
    sure, unsure = nb.misclassify(torch.tensor([0, 0]))(torch.tensor([[9.0, 0.0], [0.0, 0.0]]))
    assert unsure < sure < 0


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nb.match(torch.zeros(3)), ValueError, r"wanted \(n, d\)"),
        (lambda: nb.match(torch.full((1, 2), torch.nan)), ValueError, "finite"),
        (lambda: nb.match(torch.ones(3, 2))(torch.ones(2, 2)), ValueError, "do not fit"),
        (lambda: nb.match(torch.ones(2, 3))(torch.ones(2, 2)), ValueError, "do not fit"),
        (lambda: nb.activate(2)(torch.ones(1, 2)), IndexError, "got 2, wanted 0 to 1"),
        (lambda: nb.activate(-1)(torch.ones(1, 2)), IndexError, "got -1, wanted 0 to 1"),
        (lambda: nb.activate(torch.tensor([0, 7]))(torch.ones(2, 2)), IndexError, "got 7"),
        (lambda: nb.activate(torch.tensor(0.5)), TypeError, "index"),
    ],
)
def test_bad_input_gets_one_clear_line(make, error, message) -> None:
    with pytest.raises(error, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_margin_is_negative_exactly_where_another_class_leads():
    logits = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(64) % 5
    lead = margin(labels)(logits)
    assert torch.equal(lead < 0, logits.argmax(1) != labels)
    assert lead[0] == logits[0, 0] - logits[0, 1:].max()


def test_as_many_indices_as_images_or_one(tiny_model):
    images = torch.rand(4, 3, 32, 32)
    for make in (objectives.activate, objectives.misclassify, objectives.margin):
        one, each = (make(given)(torch.ones(4, 3)) for given in (1, np.array([1, 1, 1, 1])))
        torch.testing.assert_close(one, each)
        with pytest.raises(ValueError, match=r"got 3, wanted one, or one per image \(4\)"):
            make([0, 1, 2])(torch.ones(4, 3))
        for outside in (-1, 3):
            with pytest.raises(IndexError, match=f"got {outside}, wanted 0 to 2"):
                make(outside)(torch.ones(4, 3))
    with pytest.raises(ValueError, match="got 3, wanted one, or one per image"):
        contributions(tiny_model, images, [0, 1, 2])
