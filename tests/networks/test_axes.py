"""Axes of any layout: positions, channels and tokens."""

import pytest
import torch
from samples import small
from torch import nn

from nbhelpers.networks.model import Model


def test_a_network_of_one_size_refuses_images_of_as_many_pixels():
    flat = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16 * 16, 4)
    )
    model = Model(flat, image_size=16)
    for f in (model, model.representation):
        with pytest.raises(ValueError, match="set up for 16×16 pixels, got 8×32"):
            f(torch.rand(1, 3, 8, 32))
    of_layer = Model(small(), layer="0", pool="flatten", image_size=16)
    positions = Model(small(), image_size=16)
    assert (
        of_layer(torch.rand(1, 3, 8, 32)).shape
        == positions(torch.rand(1, 3, 24, 24)).shape
        == (1, 4)
    )
    for f in (of_layer.representation, lambda x: positions.representation(x, positions=True)):
        with pytest.raises(ValueError, match=r"8×32 .*components instead of 8×16×16"):
            f(torch.rand(1, 3, 8, 32))


class Flattened(nn.Module):
    """A map (n, 8, h, w) with permuted axes, then flattened."""

    def __init__(self, order: tuple[int, ...], size: tuple[int, int]):
        super().__init__()
        self.conv, self.order = nn.Conv2d(3, 8, 3, padding=1), order
        self.head = nn.Linear(8 * size[0] * size[1], 4)

    def forward(self, x):
        return self.head(self.conv(x).relu().permute(0, *self.order).flatten(1))


@pytest.mark.parametrize("size", [(8, 8), (6, 8)])
@pytest.mark.parametrize("order", [(1, 2, 3), (2, 3, 1), (2, 1, 3)])
def test_a_flattened_map_has_its_positions_where_the_image_has_them(order, size):
    torch.manual_seed(0)
    network, images = Flattened(order, size), torch.rand(2, 3, *size)
    model = Model(network, image_size=size)
    assert model.positions == (8, *size)
    maps = model.representation(images, positions=True).unflatten(1, model.positions)
    torch.testing.assert_close(maps, network.conv(images).relu())


def test_heads_of_attention_are_channels():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.layer, self.head = (
                nn.Conv2d(3, 8, 3, padding=1),
                nn.Identity(),
                nn.Linear(8, 4),
            )

        def forward(self, x):
            tokens = (
                self.conv(x).relu().flatten(2).transpose(1, 2).unflatten(2, (2, 4)).transpose(1, 2)
            )
            return self.head(self.layer(tokens).transpose(1, 2).flatten(2).mean(1))

    model = Model(Heads(), layer="layer", image_size=8)
    assert model.components == 8 and model.positions == (8, 64, 1)
