"""Figures show exact pixels and are reproducible."""

import functools
import io
import itertools

import matplotlib
import matplotlib.style
import numpy
import PIL.Image
import pytest
import torch

import nbhelpers as nb
from nbhelpers.figures.answers import Answer, Recognised


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


def test_the_band_of_a_share_is_wilsons_interval() -> None:
    shares = torch.tensor([[True] * 8, [True] * 2 + [False] * 6])
    for given in (shares, shares[:, :1]):  # a single value has no interval
        axes = nb.curves([0, 1], {"robust": given}, xlabel="x", ylabel="y").axes[0]
        assert axes.lines[0].get_ydata() == pytest.approx(given.float().mean(1).tolist())
    axes = nb.curves([0, 1], {"robust": shares}, xlabel="x", ylabel="y").axes[0]
    ends = axes.collections[0].get_paths()[0].vertices[:, 1]
    found = [nb.figures.results.mean_of(row) for row in shares]
    assert {round(float(end), 6) for end in ends} == {
        round(end, 6) for one in found for end in (one.low, one.high)
    }


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


def test_a_long_word_goes_on_in_the_next_line_and_a_long_text_is_cut():
    images, long = torch.rand(2, 3, 32, 32), "Donaudampfschifffahrtsgesellschaft"
    figure = nb.image_grid({"a": images}, columns=[long] * 2, captions={"a": [long, "word " * 60]})
    figure.canvas.draw()
    shown = [text for text in figure.axes[0].texts if text.get_text() != "a"]
    for one, other in itertools.combinations(shown, 2):
        box, another = (text.get_window_extent().padded(-1) for text in (one, other))
        assert not box.overlaps(another)
    assert shown[0].get_text().replace("\n", "") == long
    cut = next(text.get_text() for text in shown if text.get_text().startswith("word"))
    assert cut.endswith("…") and cut.count("\n") == 5


def test_row_labels_are_wrapped_and_none_leaves_the_figure():
    labels = ["robust, with positions", "x", "Donaudampfschifffahrtsgesellschaft"]
    figure = nb.image_grid({label: torch.rand(1, 3, 32, 32) for label in labels})
    figure.canvas.draw()
    assert all(text.get_window_extent().x0 >= 0 for text in figure.axes[0].texts)


def test_captions_may_be_numbers_and_rows_may_be_longer_than_what_is_shown():
    rows = {"a": torch.rand(5, 3, 8, 8), "b": torch.rand(2, 3, 8, 8)}
    figure = nb.image_grid(rows, captions={"a": torch.arange(5) / 8}, columns="vwxyz", first=3)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert repr(figure) == "Figure(2 × 3 images)"
    assert sorted(texts) == sorted(["a", "b", *"vwx", "0.00", "0.12", "0.25"])
    with pytest.raises(ValueError, match="first=0, wanted at least 1"):
        nb.image_grid(rows, first=0)


HOSTILE = [
    {"image.origin": "lower"},
    {"image.interpolation": "bicubic", "image.cmap": "jet", "image.aspect": "equal"},
    {"image.lut": 8, "image.composite_image": False, "image.resample": False},
    {"savefig.bbox": "tight", "savefig.pad_inches": 1},
    {"savefig.transparent": True, "savefig.facecolor": "black", "savefig.edgecolor": "red"},
    {"savefig.dpi": 30, "figure.dpi": 300, "figure.figsize": (1, 1)},
    {"savefig.format": "pdf"},
    {"figure.constrained_layout.use": True},
    {"figure.autolayout": True},
    {"figure.subplot.left": 0.4, "figure.frameon": False, "figure.edgecolor": "red"},
    {"figure.facecolor": "black", "text.color": "white", "axes.labelcolor": "white"},
    {"axes.facecolor": "black", "axes.edgecolor": "white", "xtick.color": "white"},
    {"text.usetex": True},
    {"text.parse_math": False, "mathtext.fontset": "stix", "axes.formatter.use_mathtext": True},
    {"font.family": "monospace", "font.size": 30, "font.weight": "bold"},
    {"font.family": "serif", "font.style": "italic", "axes.titlesize": 40},
    {"font.sans-serif": ["no such font"], "font.family": ["no such family"]},
    {"lines.linewidth": 20, "lines.marker": "x", "lines.linestyle": ":"},
    {"axes.prop_cycle": matplotlib.cycler(color=["white"]), "axes.grid": True},
    {"axes.xmargin": 0.4, "axes.autolimit_mode": "round_numbers", "axes.axisbelow": False},
    {"axes.spines.left": False, "xtick.labelbottom": False, "ytick.major.size": 30},
    {"legend.loc": "center", "legend.fontsize": 30, "legend.frameon": False},
    {"hist.bins": 3, "patch.force_edgecolor": True, "patch.edgecolor": "red"},
    {"path.sketch": (5, 100, 2), "path.simplify": False, "agg.path.chunksize": 10},
    {"text.antialiased": False, "text.hinting": "none"},
    {
        "axes.unicode_minus": False,
        "axes.formatter.limits": (0, 0),
        "axes.formatter.offset_threshold": 1,
    },
]


@functools.cache
def reference() -> list[numpy.ndarray]:
    return draw_all()


def draw_all() -> list[numpy.ndarray]:
    generator = torch.Generator().manual_seed(0)
    images, values = (
        torch.rand(2, 3, 32, 32, generator=generator),
        torch.rand(9, generator=generator),
    )
    captions = {"a": ["a $5 note, and a longer text", "x_1"]}
    figures = [
        nb.image_grid({"a": images}, columns="xy", captions=captions, title="title"),
        nb.distributions({"robust": values, "other": values - 1}, xlabel="$L_2$ length"),
        nb.distributions({"robust": values}, xlabel="x", log=True),
        nb.curves(
            [0, 1, 2], {"robust": values.view(3, 3), "b": values[:3]}, xlabel="x", ylabel="y"
        ),
    ]
    answers = [
        Answer("inversion", "tiny-l2-2.0", layer, "cat", "cat", right, 2.0, 6, 0, "s", "v")
        for layer, right in (("0 (conv)", True), ("3 (layer3)", False), ("3 (layer3)", True))
    ]
    figures.append(Recognised(tuple(answers)).figure())
    return [pixels(figure) for figure in figures]


@pytest.mark.long
@pytest.mark.filterwarnings("default")  # fonts that are not there
@pytest.mark.parametrize("part", range(4))
def test_figures_do_not_depend_on_the_users_matplotlib(part):
    plain = reference()
    with matplotlib.rc_context({key: one[key] for one in HOSTILE[part::4] for key in one}):
        before = dict(matplotlib.rcParams)
        for one, other in zip(plain, draw_all(), strict=True):
            assert one.shape == other.shape and numpy.array_equal(one, other)
        assert dict(matplotlib.rcParams) == before  # the user's settings are unchanged


@pytest.mark.long
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("style", ["dark_background", "ggplot", "seaborn-v0_8-poster", "fast"])
def test_figures_do_not_depend_on_a_style(style):
    plain = reference()
    with matplotlib.style.context(style):
        assert all(map(numpy.array_equal, plain, draw_all()))


def test_saved_figures_are_those_that_are_shown(tmp_path):
    figure = nb.image_grid({"a": torch.rand(1, 3, 8, 8)})
    with matplotlib.rc_context({"savefig.bbox": "tight", "savefig.transparent": True}):
        figure.savefig(tmp_path / "a.png", dpi=figure.dpi)
    with PIL.Image.open(tmp_path / "a.png") as saved:
        assert numpy.abs(numpy.asarray(saved.convert("RGB")).astype(int) - pixels(figure)).max() < 4


def test_a_sheet_has_every_image_in_reading_order():
    images = torch.linspace(0, 1, 5)[:, None, None, None].expand(5, 3, 8, 8)
    sheet = nb.image_sheet(images, list("abcde"), columns=2, cell=8)
    assert repr(sheet) == "Figure(3 × 2 images)"
    shades = numpy.unique(pixels(sheet)[..., 0])  # shown in six bits
    assert all(abs(shades - 255 * k / 4).min() <= 4 for k in range(5))
    with pytest.raises(ValueError, match="got 2 for 5 images"):
        nb.image_sheet(images, ["a", "b"])
