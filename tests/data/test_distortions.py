"""Distortions by strength and by norm; rank correlation with ties; published judgements."""

import itertools

import numpy as np
import PIL.Image
import pytest
import torch

import nbhelpers as nb
from nbhelpers.data import (
    DISTORTIONS,
    distort,
    distort_to,
    interval,
    load_judgements,
    rank_correlation,
)

IMAGES = nb.load_images("cifar10-sample", indices=range(6))[0]
each = pytest.mark.parametrize("kind", DISTORTIONS)


@each
def test_a_distortion_grows_with_its_strength(kind):
    lengths = [(distort(IMAGES, kind, k / 4) - IMAGES).flatten(1).norm(dim=1) for k in range(5)]
    # even the mildest is lossy
    assert lengths[0].max() < (2.5 if kind == "JPEG" else 1e-3)
    assert all(
        (after > before).float().mean() > 0.8 for before, after in itertools.pairwise(lengths[1:])
    )
    again = distort(IMAGES, kind, 1.0)
    assert torch.equal(again, distort(IMAGES, kind, 1.0)) and again.min() >= 0 and again.max() <= 1


@each
def test_a_distortion_has_the_length_that_is_asked_for(kind):
    moved = (distort_to(IMAGES, kind, 2.0) - IMAGES).flatten(1).norm(dim=1)
    assert (moved <= 2 + 1e-4).all() and (moved > 2 - 1e-3).float().mean() >= 0.8


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="kind: got 'fog'"):
        distort(IMAGES, "fog", 1)
    with pytest.raises(ValueError, match="strength: got 2"):
        distort(IMAGES, "blur", 2)
    with pytest.raises(ValueError, match="length: got 0"):
        distort_to(IMAGES, "blur", 0)


def test_rank_correlation_goes_row_by_row_and_knows_ties():
    # ranks 1, 2, 3.5, 5, 3.5
    rising, tied = (torch.tensor([1.0, 2, 3, 4, 5]), torch.tensor([5, 6, 7, 8, 7]))
    table = torch.stack([rising, -rising, rising.exp(), torch.ones(5)])
    wanted = torch.tensor([0.8208, -0.8208, 0.8208, 0])
    torch.testing.assert_close(rank_correlation(table, tied), wanted, rtol=0, atol=1e-4)
    assert rank_correlation(torch.tensor([1.0, 2]), torch.tensor([3.0, 1])).tolist() == [-1]


def test_an_interval_holds_the_mean_and_narrows():
    values = torch.rand(400, generator=torch.Generator().manual_seed(0))
    mean, low, high = interval(values)
    few = interval(values[:25])
    assert low < mean < high and high - low < (few[2] - few[1]) / 2
    assert mean == pytest.approx(values.mean().item()) and interval(values) == (mean, low, high)


@pytest.mark.parametrize("values", [[], [0.5, float("nan")], [float("inf"), 1.0]])
def test_an_interval_of_what_is_no_number_is_refused(values):
    with pytest.raises(ValueError, match=r"values: got \d, \d of them not finite"):
        interval(torch.tensor(values))


def pixels(images, others):
    return (images - others).flatten(1).norm(dim=1)


def saved(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy()).save(path)


@pytest.fixture(params=["KADID-10k", "TID2013"])
def rated(request, tmp_path):
    """Two originals with three levels of noise each, in the authors' layout."""
    lines = ["dist_img,ref_img,dmos,var"] if request.param == "KADID-10k" else []
    for i in range(2):
        for level in range(4):
            image = distort(IMAGES[i : i + 1], "noise", level / 4)[0]
            if request.param == "KADID-10k":
                name, reference = f"I0{i + 1}_01_0{level}.png", f"I0{i + 1}.png"
                saved(tmp_path / "images" / (name if level else reference), image)
                lines += [f"{name},{reference},{5 - level},0.5"] if level else []
            elif level:
                saved(tmp_path / "distorted_images" / f"i0{i + 1}_01_{level}.bmp", image)
                lines.append(f"{7 - level}.5 i0{i + 1}_01_{level}.bmp")
            else:
                saved(tmp_path / "reference_images" / f"I0{i + 1}.BMP", image)
    name = "dmos.csv" if request.param == "KADID-10k" else "mos_with_names.txt"
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    return request.param, tmp_path


def test_rated_pictures_are_read_and_compared(rated):
    name, folder = rated
    found = load_judgements(folder)
    assert (found.name, len(found), found.others) == (name, 6, [])
    assert found.agreement(pixels, size=32) > 0.9
    assert found.agreement(lambda a, b: -pixels(a, b), size=32, batch_size=2) < -0.9
    assert len(found.draw(4, seed=1)) == 4
    next(iter(folder.glob("*/?0*_01_*"))).unlink()
    with pytest.raises(ValueError, match="lacks the picture i0") as raised:
        load_judgements(folder)
    assert "\n" not in str(raised.value)


def test_choices_between_two_are_read_and_scored(tmp_path):
    # votes for the second, which is nearer in the first two
    for k, share in enumerate((1.0, 0.8, 0.0)):
        strengths = (1.0, 0.25) if k < 2 else (0.25, 1.0)
        saved(tmp_path / "2afc/val/cnn/ref" / f"00000{k}.png", IMAGES[k])
        for part, strength in zip(("p0", "p1"), strengths, strict=True):
            changed = distort(IMAGES[k : k + 1], "noise", strength)[0]
            saved(tmp_path / "2afc/val/cnn" / part / f"00000{k}.png", changed)
        (tmp_path / "2afc/val/cnn/judge").mkdir(exist_ok=True)
        np.save(
            tmp_path / "2afc/val/cnn/judge" / f"00000{k}.npy", np.array([share], dtype=np.float32)
        )
    found = load_judgements(tmp_path)
    assert (found.name, len(found)) == ("BAPPS", 3)
    torch.testing.assert_close(found.agreement(pixels, size=32), torch.tensor([1.0, 0.8, 1.0]))
    constant = found.agreement(lambda a, b: torch.zeros(len(a)), size=32)
    torch.testing.assert_close(constant, torch.full((3,), 0.5))
    (tmp_path / "2afc/val/cnn/p1/000001.png").unlink()
    with pytest.raises(ValueError, match=r"lacks 2afc.val.cnn.p1.000001\.png"):
        load_judgements(tmp_path)


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is none of KADID-10k, TID2013 and BAPPS"):
        load_judgements(tmp_path)
