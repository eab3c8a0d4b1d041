"""Demos of large images: the start precedes any forward pass, and there are fewer steps."""

import pytest
import torch

import nbhelpers as nb
from nbhelpers import widgets

KINDS = (
    "inversion",
    "epsilon_series",
    "brittleness",
    "interpolation",
    "feature_visualization",
    "feature_manipulation",
)


@pytest.fixture
def passes(monkeypatch):
    """Count the passes of a model."""
    seen, whole = [], nb.Model._passed
    monkeypatch.setattr(nb.Model, "_passed", lambda *args: seen.append(1) or whole(*args))
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_frame_needs_no_pass(tiny_model, passes, kind):
    images = torch.rand(3, 3, 72, 72, generator=torch.Generator().manual_seed(0))
    more = {"components": 2} if kind.startswith("feature") else {}
    demo = getattr(widgets, kind)(
        {"robust": tiny_model, "standard": tiny_model}, images, steps=2, **more
    )
    passes.clear()
    frames = demo.live._job(*demo.live._full(demo.pick))
    first = next(frames)
    sheet, captions = first.draw()
    assert not passes and (first.step, first.total) == (0, 2)
    made = (
        captions[1:]
        if kind.endswith(("inversion", "polation", "manipulation", "series"))
        else captions[:2]
    )
    assert all("nan" not in text for row in captions for text in row)
    assert all("distance" not in text and "activation" not in text for row in made for text in row)
    second, *_, last = frames
    assert second.step == 0 and (last.step, last.total) == (2, 2) and passes
    torch.testing.assert_close(second.draw()[0], sheet)  # the same pictures, now with numbers
    assert sum(len(text) for row in second.draw()[1] for text in row) > sum(
        len(t) for row in captions for t in row
    )


def test_small_images_need_none(tiny_model):
    demo = widgets.inversion({"robust": tiny_model}, torch.rand(2, 3, 32, 32), steps=2)
    steps = [frame.step for frame in demo.live._job(*demo.live._full(demo.pick))]
    # no preview; the third step belongs to the means
    assert steps == [0, 1, 2, 3]


def test_large_images_take_fewer_steps(tiny_model):
    small, large = (torch.rand(1, 3, side, side) for side in (32, 72))
    settings = widgets.settings.INVERSION
    assert settings.steps_for(small, None) == 100 and settings.steps_for(large, None) == 25
    assert settings.steps_for(large, 60) == 60
    assert "25 steps" in widgets.inversion({"robust": tiny_model}, large).live.note
