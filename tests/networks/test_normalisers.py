"""Networks that normalise their input are detected by values and use, not by name."""

from collections import OrderedDict

import pytest
import torch
import torchvision
from samples import HALF, small
from torch import nn

from nbhelpers.networks import load_model


class Scaled(nn.Module):
    def __init__(self, part: str, mean: str, std: str):
        super().__init__()
        self.net, self.names = small(), (part, mean, std)
        place = self if not part else nn.Module()
        if part:
            self.add_module(part, place)
        place.register_buffer(mean, torch.full((1, 3, 1, 1), 0.4))
        place.register_buffer(std, torch.full((1, 3, 1, 1), 0.2))

    def forward(self, x):
        part, mean, std = self.names
        place = getattr(self, part) if part else self
        return self.net((x - getattr(place, mean)) / getattr(place, std))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Scaled("", "pixel_mean", "pixel_std"),
        lambda: Scaled("preprocess", "mean", "std"),
        lambda: Scaled("norm", "MEAN", "STD"),
        lambda: Scaled("", "_mean", "_stddev"),
        lambda: nn.Sequential(torchvision.transforms.Normalize((0.4,) * 3, (0.2,) * 3), small()),
    ],
)
def test_a_normaliser_of_any_name_is_used_once(make, tmp_path, capsys):
    network, images = make().eval(), torch.rand(2, 3, 16, 16)
    torch.save(network.state_dict(), tmp_path / "m.pt")
    model = load_model(tmp_path / "m.pt", architecture=make(), dataset=HALF, device="cpu")
    torch.testing.assert_close(model(images), network(images))
    assert "normalises by itself" in capsys.readouterr().out


def test_a_layer_that_adds_noise_is_no_normaliser(tmp_path, capsys):
    class Noise(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean, self.std = 0.0, 0.1

        def forward(self, x):
            return x

    torch.save(small().state_dict(), tmp_path / "m.pt")
    model = load_model(tmp_path / "m.pt", architecture=small(), dataset=HALF, device="cpu")
    assert model.mean.flatten().tolist() == [0.5] * 3
    network = small(Noise())
    torch.save(network.state_dict(), tmp_path / "n.pt")
    assert (
        load_model(tmp_path / "n.pt", architecture=network, dataset=HALF, device="cpu")
        .mean[0]
        .item()
        == 0.5
    )


def test_lists_of_anything_in_a_network_are_no_normaliser(tmp_path):
    network = small()
    network.blocks, network.shapes, network.nothing = (
        [{"stride": [1]}, {"stride": [1, 2]}],
        [(1,), (1, 2), "a"],
        [None],
    )
    torch.save(network.state_dict(), tmp_path / "m.pt")
    assert (
        load_model(tmp_path / "m.pt", architecture=network, dataset=HALF, device="cpu")
        .mean[0]
        .item()
        == 0.5
    )


class Named(nn.Module):
    """Tensors named like a normaliser's, elsewhere or used otherwise."""

    def __init__(self, use):
        super().__init__()
        self.net, self.use = small(), use
        self.mean = nn.Parameter(torch.full((1, 3, 1, 1), 0.3))
        self.std = nn.Parameter(torch.full((1, 3, 1, 1), 0.1))
        self.sigma = nn.Parameter(torch.tensor([0.1]))

    def forward(self, x):
        return self.net(self.use(self, x))


@pytest.mark.parametrize(
    "use",
    [
        lambda s, x: x + s.sigma * torch.randn_like(x) if s.training else x,
        lambda s, x: x + s.std * torch.randn_like(x) + s.mean if s.training else x,
        lambda s, x: x * s.std + s.mean,
        lambda s, x: x + s.sigma,
        lambda s, x: (x.relu() ** 2 - s.mean) / s.std,
    ],
)
def test_a_name_is_no_proof(use, tmp_path, capsys):
    network, images = Named(use).eval(), torch.rand(2, 3, 16, 16)
    torch.save(network.state_dict(), tmp_path / "m.pt")
    model = load_model(tmp_path / "m.pt", architecture=Named(use), dataset=HALF, device="cpu")
    wanted = network((images - model.mean) / model.std)
    torch.testing.assert_close(model(images), wanted, atol=1e-4, rtol=1e-4)
    assert model.mean.flatten().tolist() == [0.5] * 3
    assert "normalises by itself" not in capsys.readouterr().out


def test_what_the_user_says_is_above_a_network_s_own_numbers(tmp_path):
    network = Named(lambda s, x: x * s.std + s.mean)
    network.net[-1] = nn.Linear(network.net[-1].in_features, 10)
    torch.save(network.state_dict(), tmp_path / "m.pt")
    model = load_model(tmp_path / "m.pt", architecture=network, dataset="cifar10", device="cpu")
    assert model.mean[0].item() == pytest.approx(0.4914)


def test_a_normaliser_may_count_to_255(tmp_path):
    class Bytes(Scaled):
        def forward(self, x):
            return self.net((x * 255 - self.mean) / self.std)

    network, images = Bytes("", "mean", "std").eval(), torch.rand(2, 3, 16, 16)
    torch.save(network.state_dict(), tmp_path / "m.pt")
    again = Bytes("", "mean", "std")
    model = load_model(tmp_path / "m.pt", architecture=again, dataset=HALF, device="cpu")
    torch.testing.assert_close(model(images), network(images))


@pytest.mark.parametrize(
    "names", ["model", "module", "model.model", "module.model", "normalize model"]
)
def test_parts_may_be_called_as_wrappers_are(names, tmp_path):
    def make():
        normalize = torchvision.transforms.Normalize((0.4,) * 3, (0.2,) * 3)
        if names == "normalize model":
            place = nn.Module()
            place.register_buffer("mean", torch.full((1, 3, 1, 1), 0.4))
            place.register_buffer("std", torch.full((1, 3, 1, 1), 0.2))
            place.forward = lambda x: (x - place.mean) / place.std
            return nn.Sequential(OrderedDict(normalize=place, model=small()))
        network = nn.Sequential(normalize, small())
        for name in reversed(names.split(".")):
            network = nn.Sequential(OrderedDict({name: network}))
        return network

    network, images = make().eval(), torch.rand(2, 3, 16, 16)
    for wrapped in (network, nn.DataParallel(network)):
        torch.save(wrapped.state_dict(), tmp_path / "m.pt")
        model = load_model(tmp_path / "m.pt", architecture=make(), dataset=HALF, device="cpu")
        if names != "normalize model":
            torch.testing.assert_close(model(images), network(images))


@pytest.mark.parametrize("key", ["sigma", "std", "mean", "mu"])
def test_a_tensor_alone_in_a_file_is_no_normaliser(key, tmp_path):
    network = small()
    network.register_parameter(key, nn.Parameter(torch.tensor([0.1])))
    torch.save(network.state_dict(), tmp_path / "m.pt")
    again = small()
    again.register_parameter(key, nn.Parameter(torch.tensor([0.7])))
    model = load_model(tmp_path / "m.pt", architecture=again, dataset=HALF, device="cpu")
    assert model.mean.flatten().tolist() == [0.5] * 3 and float(model.std[0]) != pytest.approx(0.1)
