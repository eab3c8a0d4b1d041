"""Layers: where ten architectures can be cut; every cut works."""

import pytest
import timm
import torch
import torchvision.models as tv
from torch import nn

import nbhelpers as nb
from nbhelpers.networks import Layer, WideResNet, resnet


class Branching(nn.Module):
    """Not traceable: control flow depends on values."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        x = self.first(x).relu()
        x = self.second(x) if x.mean() > -1e9 else x
        return self.fc(x.relu().mean((2, 3)))


def vgg():
    """VGG-16's chain of single operations, narrow."""
    plan = [8, 8, "M", 12, 12, "M", 16, 16, 16, "M", 16, 16, 16, "M", 16, 16, 16, "M"]
    body = tv.vgg.make_layers(plan)
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))


NETWORKS = {
    "resnet": (
        lambda: resnet("resnet18", width=8),
        32,
        "bn1:8×32×32 layer1:8×32×32 layer2:16×16×16 layer3:32×8×8 layer4:64×4×4",
    ),
    "wide-resnet": (
        lambda: WideResNet(depth=10, widen=1),
        32,
        "conv1:16×32×32 block1:16×32×32 block2:32×16×16 block3:64×8×8",
    ),
    "vgg": (vgg, 64, "4:8×32×32 9:12×16×16 16:16×8×8 23:16×4×4 30:16×2×2"),
    "densenet": (
        lambda: tv.DenseNet(8, (2, 2, 2, 2), 16, num_classes=5),
        64,
        "features.pool0:16×16×16 features.denseblock1:32×16×16 features.transition1:16×8×8 "
        "features.denseblock2:32×8×8 features.transition2:16×4×4 features.denseblock3:32×4×4 "
        "features.transition3:16×2×2 features.denseblock4:32×2×2",
    ),
    "mobilenet": (lambda: tv.mobilenet_v3_small(width_mult=0.5, num_classes=5), 64, None),
    "efficientnet": (
        lambda: timm.create_model("test_efficientnet", num_classes=5),
        64,
        "bn1:24×32×32 blocks.0:16×32×32 blocks.1:24×16×16 blocks.2:32×8×8 blocks.3:48×4×4 "
        "blocks.4:64×2×2 bn2:256×2×2",
    ),
    "convnext": (
        lambda: timm.create_model("convnext_atto", num_classes=5),
        64,
        "stem:40×16×16 stages.0:40×16×16 stages.1:80×8×8 stages.2:160×4×4 stages.3:320×2×2",
    ),
    "vit": (
        lambda: tv.VisionTransformer(32, 8, 4, 2, 32, 64, num_classes=5),
        32,
        "encoder.dropout:32×17×1 "
        + " ".join(f"encoder.layers.encoder_layer_{i}:32×17×1" for i in range(4)),
    ),
    "swin": (
        lambda: tv.SwinTransformer([4, 4], 16, [2, 2, 2], [2, 2, 4], [4, 4], num_classes=5),
        32,
        "features.0:16×8×8 features.1:16×8×8 features.2:32×4×4 features.3:32×4×4 "
        "features.4:64×2×2 features.5:64×2×2",
    ),
    "untraceable": (Branching, 32, "first:8×16×16 second:16×8×8"),
}


def text(layer: Layer) -> str:
    return f"{layer.name}:{layer.channels}×{layer.height}×{layer.width}"


@pytest.mark.parametrize("kind", NETWORKS)
def test_each_listed_layer_can_be_inverted(kind):
    build, size, wanted = NETWORKS[kind]
    torch.manual_seed(0)
    network = build().eval()
    found = nb.layers(nb.Model(network, image_size=size))
    assert wanted is None or " ".join(map(text, found)) == wanted
    assert len({layer.name for layer in found}) == len(found) >= 2
    images, start = torch.rand(1, 3, size, size), nb.noise(1, size=size)
    for layer in found:
        model = nb.Model(network, image_size=size, layer=layer.name, pool="flatten")
        assert model.components == layer.channels * layer.height * layer.width, layer
        match = nb.match(model.representation(images))
        losses = nb.minimize(model.representation, match, start, steps=5).losses[:, 0]
        assert losses.min() < losses[0], layer
        assert nb.layers(model) == found, "its own layer makes no difference"


def test_all_places_come_with_detail():
    model = nb.Model(resnet("resnet18", width=8), image_size=32)
    every = [layer.name for layer in nb.layers(model, detail=True)]
    stages = [layer.name for layer in nb.layers(model)]
    assert [name for name in every if name in stages] == stages
    assert {"layer1.0", "layer1.0.conv1", "layer4.1", "linear"} <= {*every}


def test_single_layers_end_with_what_follows_them():
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()]
    head = [nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(144, 5)]
    found = nb.layers(nb.Model(nn.Sequential(*layers, *head), image_size=32))
    assert [*map(text, found)] == ["2:8×30×30", "5:16×14×14"]


def test_layers_by_the_name_of_a_checkpoint():
    for layer in nb.layers(nb.load_model("cifar10-standard", device="cpu")):
        model = nb.load_model("cifar10-standard", device="cpu", layer=layer.name)
        assert (model.components, model.positions) == (
            layer.channels,
            (layer.channels, layer.height, layer.width),
        )


def test_only_a_model_has_layers():
    with pytest.raises(TypeError, match=r"got ResNet, wanted nb\.Model\(network"):
        nb.layers(resnet("resnet18", width=4))
