"""Figures show every pixel as it is, and say the same thing every time."""

import functools
import io
import itertools

import numpy
import PIL.Image
import pytest
import torch

import nbhelpers as nb


def pixels(figure) -> numpy.ndarray:
    return numpy.asarray(PIL.Image.open(io.BytesIO(figure._repr_png_())).convert("RGB")).astype(int)


def test_small_images_are_enlarged_by_whole_pixels() -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    shown = pixels(nb.image_grid({"a": images}, cell=96))
    wanted = (
        images[0].permute(1, 2, 0).repeat_interleave(3, 0).repeat_interleave(3, 1) * 255
    ).numpy()
    corners = numpy.argwhere(numpy.abs(shown - numpy.round(wanted[0, 0])).max(2) <= 4)
    close = [
        numpy.abs(shown[y : y + 96, x : x + 96] - wanted).max() <= 5
        for y, x in corners
        if y + 96 <= shown.shape[0] and x + 96 <= shown.shape[1]
    ]
    assert any(close)


@pytest.mark.parametrize(
    "size, other, shown", [(64, 32, 128), (32, 32, 96), (32, 28, 96), (300, 64, 192)]
)
def test_images_fill_their_cells_by_whole_pixels_and_smaller_ones_stand_in_the_middle(
    size, other, shown
) -> None:
    black = {"a": torch.zeros(2, 3, size, size), "b": torch.zeros(1, 3, other, other)}
    dark = pixels(nb.image_grid(black)).max(2)[:, 20:] < 8  # right of the labels
    columns, rows = (numpy.flatnonzero(dark.any(axis)) for axis in (0, 1))
    gap, small = 6, other * (shown // other)
    assert len(columns) == 2 * shown and columns[-1] - columns[0] == 2 * shown + gap - 1
    assert len(rows) == shown + small
    second = numpy.flatnonzero(dark[rows[-1]])
    assert len(second) == small and second[0] - columns[0] == (shown - small) // 2


@pytest.mark.parametrize("size", [32, 224])
def test_grids_take_any_size_and_repeat_exactly(size: int) -> None:
    images = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    make = functools.partial(
        nb.image_grid, {"row": images}, columns="abc", captions={"row": ["x", "y", "z"]}, title="t"
    )
    assert numpy.array_equal(pixels(make()), pixels(make()))
    assert repr(make()) == "Figure(1 × 3 images)"


def test_curves_and_distributions_draw() -> None:
    assert pixels(
        nb.curves(
            [0, 1, 2], {"robust": torch.rand(3, 5), "other": torch.rand(3)}, xlabel="x", ylabel="y"
        )
    ).std()
    assert pixels(
        nb.distributions({"robust": torch.rand(9), "standard": torch.rand(9)}, xlabel="x", log=True)
    ).std()


def test_captions_of_no_row_are_an_error() -> None:
    with pytest.raises(ValueError, match="wanted captions of rows"):
        nb.image_grid({"a": torch.rand(1, 3, 8, 8)}, captions={"b": ["x"]})


def test_long_texts_break_between_words_and_never_meet():
    images = torch.rand(3, 3, 32, 32)
    columns, captions = (
        ["activation raised to 50 %"] * 3,
        {"a": ["component 115 at 5.20\ncat → dog"] * 3, "b": [""] * 3},
    )
    figure = nb.image_grid({"a": images, "b": images}, columns=columns, captions=captions)
    figure.canvas.draw()
    texts = [
        text
        for text in figure.axes[0].texts
        if text.get_text() in columns or "\n" in text.get_text()
    ]
    boxes = [text.get_window_extent() for text in texts]
    assert len(boxes) == 6 and "component 115\nat 5.20\ncat → dog" in {
        text.get_text() for text in texts
    }
    for one, other in itertools.combinations(boxes, 2):
        assert not one.padded(-1).overlaps(other.padded(-1))
    plain = nb.image_grid(
        {"a": images, "b": images}, columns=columns, captions={"a": captions["a"]}
    )
    assert plain.get_figheight() == figure.get_figheight()  # empty captions take no room
