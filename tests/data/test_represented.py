"""Cached representations are specific to a function and a selection of images."""

import numpy as np
import pytest
import torch
from torch import nn

import nbhelpers as nb
from nbhelpers.data import represented

SAMPLE = "cifar10-sample"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NBHELPERS_CACHE", str(tmp_path))
    return tmp_path


class Own(nn.Module):
    """Equal weights and repr, but another attribute or untraced control flow."""

    def __init__(self, power=1.0, hooked=False, f=torch.tanh):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.power, self.hooked, self.f = (
            nn.Conv2d(3, 8, 3),
            nn.Linear(8, 10),
            power,
            hooked,
            f,
        )

    def forward(self, x):
        if self.hooked and x.sum() > 1e9:
            return x
        return self.fc(self.f(self.conv(x)).mean((2, 3)) * self.power)


def net(act=None, **conv):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, **conv), act or nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


def test_another_function_of_the_same_weights_is_computed_anew():
    networks = [
        net(),
        net(nn.Tanh()),
        net(nn.LeakyReLU(0.3)),
        net(nn.LeakyReLU(0.31)),
        net(stride=2),
        net(dilation=2),
    ]
    networks += [
        net(padding=1),
        net(padding=1, padding_mode="reflect"),
        Own(),
        Own(1.0001),
        Own(hooked=True),
    ]
    networks += [
        Own(1.0001, True),
        Own(hooked=True, f=torch.sigmoid),
        Own(f=lambda x: x + 1),
        Own(f=lambda x: x + 2),
    ]
    images, _ = nb.load_images(SAMPLE, indices=range(12))
    for network in networks:
        model = nb.Model(network, image_size=32)
        found = nb.represent_set(model, SAMPLE, indices=range(12))
        torch.testing.assert_close(found, model.representation(images), rtol=1e-5, atol=1e-6)


def test_another_choice_of_images_is_computed_anew(tiny_model, monkeypatch):
    first, other = np.arange(1100), np.r_[0:3, 300:1394, 1097:1100]
    batches = []
    whole = represented.represent
    monkeypatch.setattr(
        represented, "represent", lambda *a, **k: batches.append(1) or whole(*a, **k)
    )
    one, two = (nb.represent_set(tiny_model, SAMPLE, indices=i) for i in (first, other))
    images, _ = nb.load_images(SAMPLE, indices=other[500:502])
    torch.testing.assert_close(
        two[500:502], tiny_model.representation(images), rtol=1e-4, atol=1e-5
    )
    assert not torch.equal(one, two) and len(batches) == 2
    for same in (
        torch.from_numpy(other),
        other.tolist(),
        (int(i) for i in other),
        other.astype(np.int16),
    ):
        assert torch.equal(nb.represent_set(tiny_model, SAMPLE, indices=same), two)
    assert len(batches) == 2


@pytest.mark.parametrize(
    "indices", [np.array([0.0, 1.0]), [1.5], np.array([True, False]), 3, "12", np.array(2)]
)
def test_indices_that_are_no_whole_numbers_are_refused(tiny_model, indices):
    with pytest.raises(TypeError, match=r"indices: got .* wanted"):
        nb.represent_set(tiny_model, SAMPLE, indices=indices)


def test_kept_numbers_of_something_else_are_not_believed(tiny_model, cache):
    right = nb.represent_set(tiny_model, SAMPLE, indices=range(20))
    (path,) = (cache / "representations").glob("*.safetensors")
    nb.files.save_tensors(path, {"features": right + 0.1})
    assert torch.equal(nb.represent_set(tiny_model, SAMPLE, indices=range(20)), right)


@pytest.mark.parametrize("place", ["file/in/the/way", None])
def test_a_cache_that_cannot_be_written_does_not_cost_the_result(
    tiny_model, tmp_path, monkeypatch, capsys, place
):
    (tmp_path / "file").write_text("")
    if place:
        monkeypatch.setenv("NBHELPERS_CACHE", str(tmp_path / place))
    else:

        def homeless():
            raise ValueError("no home folder to keep downloads in")

        monkeypatch.setattr(represented, "cache_folder", homeless)
    assert nb.represent_set(tiny_model, SAMPLE, indices=[0, 1]).shape == (2, 32)
    assert "not kept" in capsys.readouterr().err


def test_identity_follows_content_and_labels_not_dates(tmp_path):
    import PIL.Image

    for name, shade in (
        ("a/x/0", 1),
        ("a/y/0", 2),
        ("b/x/0", 1),
        ("b/y/0", 2),
        ("c/x/0", 2),
        ("c/y/0", 1),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        PIL.Image.new("RGB", (8, 8), (shade,) * 3).save(tmp_path / f"{name}.png")
    one, copied, swapped = (nb.data.identity(tmp_path / name) for name in "abc")
    assert one == copied != swapped
    (tmp_path / "b" / "z").mkdir()
    assert nb.data.identity(tmp_path / "b") != one


@pytest.mark.parametrize("given", ["~/cache", "~nobody-of-this-name/cache", ""])
def test_no_home_is_one_line_and_costs_no_result(tiny_model, monkeypatch, capsys, given):
    def homeless(path):
        return path  # as os.path without HOME and passwd entry

    monkeypatch.setattr("os.path.expanduser", homeless)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("NBHELPERS_CACHE", given)
    with pytest.raises(
        ValueError, match="no home folder to keep downloads in; set NBHELPERS_CACHE"
    ):
        nb.files.cache_folder()
    assert nb.represent_set(tiny_model, SAMPLE, indices=[0, 1]).shape == (2, 32)
    assert "not kept: no home folder" in capsys.readouterr().err


def test_a_grey_network_is_compared_on_grey_images(monkeypatch, tmp_path):
    monkeypatch.setenv("NBHELPERS_CACHE", str(tmp_path))
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    model = nb.Model(network, mean=(0.5,), std=(0.25,), image_size=28)
    first = nb.represent_set(model, SAMPLE, indices=range(12))
    assert torch.equal(nb.represent_set(model, SAMPLE, indices=range(12)), first)
