"""Any torch classifier: the representation is its last Linear's input, the logits are its own."""

import importlib.util
import re

import pytest
import torch
import torchvision
from samples import small
from torch import nn
from torch.nn import functional

import nbhelpers as nb
from nbhelpers.networks.loading import _recognised, build_network, load_model
from nbhelpers.networks.model import Model
from nbhelpers.networks.resnets import WideResNet, resnet

tv = torchvision.models


def seeded(build):
    torch.manual_seed(0)
    network = build().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # fresh statistics would fold into nothing
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return network


def noise(size, n=3):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def observed(network, images, name=None):
    """By a hook: the input of the last Linear or the output of `name`; and the logits."""
    seen = []

    def keep(module, inputs, output):
        seen.append((output if name else inputs[0]).clone())

    watched = (
        [network.get_submodule(name)]
        if name
        else [m for m in network.modules() if isinstance(m, nn.Linear)]
    )
    handles = [module.register_forward_hook(keep) for module in watched]
    with torch.no_grad():
        logits = network((images - 0.5) / 0.25)
    for handle in handles:
        handle.remove()
    return seen[-1], logits


def close(values, wanted):
    torch.testing.assert_close(
        values, wanted, atol=1e-4 * max(1, float(wanted.abs().max())), rtol=0
    )


def wrapped(network, **options):
    return nb.Model(network, mean=(0.5,) * 3, std=(0.25,) * 3, **options)


class Small(nn.Module):
    """Parts of the unusual networks below."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 4)

    def trunk(self, x):
        return functional.relu(self.norm(self.conv(x)), inplace=True).mean((2, 3))

    def forward(self, x):
        return self.fc(self.trunk(x))


class Wild(Small):
    def forward(self, x):
        return self.fc(self.trunk(x) if x.mean() > 100 else 2 * self.trunk(x))


class Misled(Small):
    """Traces wrongly without an error: a tracer's proxy is no Tensor."""

    def forward(self, x):
        return self.fc(self.trunk(2 * x if isinstance(x, torch.Tensor) else x))


class SharedConvolution(Small):
    """One convolution before two batch norms: folding one breaks the other."""

    def __init__(self):
        super().__init__()
        self.again, self.other = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)

    def forward(self, x):
        x = self.norm(self.again(self.conv(x)))
        return self.fc(functional.relu(self.other(self.again(x))).mean((2, 3)))


class Discarded(Small):
    """An in-place ReLU whose result is unused."""

    def forward(self, x):
        x = self.norm(self.conv(x))
        functional.relu_(x)
        return self.fc(x.mean((2, 3)))


class TwoHeads(Small):
    def __init__(self):
        super().__init__()
        self.second = nn.Linear(6, 4)

    def forward(self, x):
        x = self.trunk(x)
        return (self.fc(x) + self.second(x)) / 2


class LogSoftmax(Small):
    def forward(self, x):
        return functional.log_softmax(super().forward(x), dim=1)


def sequential():
    features = [nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(
        *features,
        nn.Linear(8, 16),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(16, 4),
        nn.Dropout(),
    )


def vit():
    return tv.VisionTransformer(
        image_size=32,
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=32,
        num_classes=4,
    )


def swin():
    return tv.SwinTransformer([4, 4], 12, [1, 1], [2, 2], [4, 4], num_classes=4)


def convnext():
    block = torchvision.models.convnext.CNBlockConfig
    return tv.ConvNeXt([block(8, 16, 1), block(16, None, 1)], num_classes=4)


def efficientnet():
    return tv.efficientnet_b0(num_classes=4)


FOLDED, NOT_TRACED = "batch norm folded", "no folding, no fake ReLU"
NETWORKS = {
    "resnet": (lambda: tv.resnet18(num_classes=4), 32, FOLDED),
    "cifar resnet": (lambda: resnet("resnet50", width=4, classes=4), 32, FOLDED),
    "wide resnet": (
        lambda: WideResNet(depth=10, widen=1, classes=4),
        32,
        "batch norm folded in 3 of 7 layers",
    ),
    "vgg": (lambda: tv.vgg11_bn(num_classes=4, init_weights=False), 32, FOLDED),
    "densenet": (
        lambda: tv.DenseNet(8, (2, 2), 8, num_classes=4),
        32,
        "batch norm folded in 5 of 11 layers",
    ),
    "mobilenet v2": (
        lambda: tv.mobilenet_v2(num_classes=4, width_mult=0.25),
        32,
        "no final ReLU (ReLU6)",
    ),
    "mobilenet v3": (
        lambda: tv.mobilenet_v3_small(num_classes=4, width_mult=0.5),
        32,
        "no final ReLU (Hardswish)",
    ),
    "mnasnet": (lambda: tv.MNASNet(0.5, num_classes=4), 32, FOLDED),
    "shufflenet": (lambda: tv.shufflenet_v2_x0_5(num_classes=4), 32, FOLDED),
    "efficientnet": (efficientnet, 32, "no final ReLU (SiLU)"),
    "convnext": (convnext, 32, "no final ReLU (layer_norm)"),
    "vit": (vit, 32, "no final ReLU (LayerNorm)"),
    "swin": (swin, 32, "no final ReLU (LayerNorm)"),
    "sequential": (sequential, 32, "no batch norm"),
    "wild": (Wild, 32, f"not traced (TraceError), {NOT_TRACED}"),
    "misled": (Misled, 32, f"its trace computes something else, {NOT_TRACED}"),
    "shared convolution": (SharedConvolution, 32, "batch norm not folded"),
    "discarded": (Discarded, 32, "no final ReLU (Conv2d)"),
    "two heads": (TwoHeads, 32, "no head"),
    "data parallel": (lambda: nn.DataParallel(Small()), 32, FOLDED),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_representation_and_logits_are_the_network_s(name):
    build, size, note = NETWORKS[name]
    network, images = seeded(build), noise(size)
    model = wrapped(network, image_size=size)
    features, logits = observed(network, images)
    close(model(images), logits)
    for fake in (True, False):
        close(model.representation(images, fake), features)
    assert model.components == features.shape[1] and len(model.classes) == 4
    if note:
        assert note in repr(model)
    if name != "two heads":
        close(model.head(model.representation(images)), logits)
        close(
            nb.contributions(model, images, logits.argmax(1)).sum(1),
            logits.amax(1) - model.head.bias[logits.argmax(1)],
        )
    x = images.clone().requires_grad_()
    model.representation(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_logits_that_are_no_linear_layer_s_have_no_head():
    model = wrapped(TwoHeads())
    with pytest.raises(ValueError, match=r"no head.*logits are not the output of second"):
        nb.contributions(model, noise(32), torch.tensor([0, 0, 0]))


def test_a_final_log_softmax_is_left_out():
    network = seeded(LogSoftmax)
    model = wrapped(network)
    close(model(noise(32)).log_softmax(1), observed(network, noise(32))[1])
    assert "final log-softmax left out" in repr(model) and model.head.out_features == 4


def test_half_precision_becomes_float32():
    model = wrapped(seeded(Small).half())
    assert model(noise(32)).dtype == torch.float32


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Conv2d(3, 4, 3), r"returns shape \(2, 4, 30, 30\), wanted logits"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "name a layer="),
        (nn.Sequential(nn.Flatten(), nn.Linear(7, 4)), "does not run on 3 channels of 32, 64"),
    ],
)
def test_what_is_no_classifier_gets_one_clear_line(network, message):
    with pytest.raises(ValueError, match=message):
        wrapped(network)


LAYERS = [
    ("layer3", "mean"),
    ("layer3", "flatten"),
    ("layer1.0.conv1", "mean"),  # its batch norm must not be folded into its output
    ("bn1", "mean"),  # an in-place ReLU follows
    ("layer4.1.relu", "mean"),  # called twice: the last call counts
    ("avgpool", "mean"),
    ("fc", "mean"),
]


@pytest.mark.parametrize(("layer", "pool"), LAYERS)
def test_any_layer_is_a_representation(layer, pool):
    network, images = seeded(lambda: tv.resnet18(num_classes=4)), noise(32)
    model = wrapped(network, layer=layer, pool=pool, image_size=32)
    output, logits = observed(network, images, layer)
    wanted = output.mean((2, 3)) if pool == "mean" and output.ndim == 4 else output.flatten(1)
    close(model.representation(images), wanted)
    close(model(images), logits)
    assert model.components == wanted.shape[1] and layer in repr(model)
    with pytest.raises(ValueError, match="load the model without layer="):
        nb.contributions(model, images, torch.tensor([0, 1, 2]))


def test_nothing_after_an_early_layer_is_computed():
    model = wrapped(seeded(lambda: tv.resnet18(num_classes=4)), layer="layer1")
    convolutions = sum(isinstance(module, nn.Conv2d) for module in model.parts.trunk.modules())
    assert convolutions == 5  # of 20


def test_a_layer_of_a_network_that_cannot_be_traced():
    network, images, later = seeded(Wild), noise(32), []
    model = wrapped(network, layer="norm")
    model.parts.network.fc.register_forward_hook(lambda *_: later.append(1))
    close(model.representation(images), observed(network, images, "norm")[0].mean((2, 3)))
    assert not later  # the pass ended before it
    close(model(images), observed(network, images)[1])


@pytest.mark.parametrize(
    ("build", "layer", "mean"),
    [
        (vit, "encoder.layers.encoder_layer_0", 1),
        (swin, "features.1", (1, 2)),
        (convnext, "features.1", (2, 3)),
    ],
)
def test_tokens_and_channels_last_are_pooled_over_positions(build, layer, mean):
    network, images = seeded(build), noise(32)
    model = wrapped(network, layer=layer, image_size=32)
    close(model.representation(images), observed(network, images, layer)[0].mean(mean))


@pytest.mark.parametrize(
    ("layer", "message"),
    [("layer33", "near names: layer3"), ("", "no module"), ("unused", "never called")],
)
def test_a_layer_that_is_not_there(layer, message):
    network = tv.resnet18(num_classes=4)
    network.unused = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=message):
        wrapped(network, layer=layer)


# Files and libraries.

CIFAR = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
FILES = {
    "cifar resnet18": lambda: resnet("resnet18", width=4, classes=4),
    "cifar resnet50": lambda: resnet("resnet50", width=2, classes=4),
    "wide resnet": lambda: WideResNet(depth=16, widen=1, classes=4),
    "torchvision resnet18": lambda: tv.resnet18(num_classes=4),
    "torchvision resnext50": lambda: tv.resnext50_32x4d(num_classes=4),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_tells_its_architecture(name, tmp_path, capsys):
    network = seeded(FILES[name])
    state = {f"module.{key}": tensor for key, tensor in network.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "mine.pt")
    model = load_model(tmp_path / "mine.pt", dataset=CIFAR, device="cpu")
    close(model(noise(32)), observed(network, noise(32))[1])
    assert model.name == "mine"
    assert "module." in capsys.readouterr().out  # the report of dropped prefixes


RECOGNISED = {
    "resnet34": (lambda: resnet("resnet34", width=16), {"width": 16}),
    "wide-resnet-34-20": (lambda: WideResNet(depth=34, widen=20), {}),
    "torchvision:resnet34": (tv.resnet34, {}),
    "torchvision:resnet101": (tv.resnet101, {"groups": 1, "width_per_group": 64}),
    "torchvision:resnet50": (
        lambda: tv.resnet50(width_per_group=256),
        {"groups": 1, "width_per_group": 256},
    ),
}


@pytest.mark.parametrize("name", RECOGNISED)
def test_large_architectures_are_recognised(name):
    build, arguments = RECOGNISED[name]
    with torch.device("meta"):
        assert _recognised(build().state_dict()) == (name, arguments)


def test_an_own_network_is_filled_from_a_file(tmp_path):
    network, empty = seeded(Small), Small()
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    with pytest.raises(
        ValueError, match=r"cannot recognise the architecture.*conv.weight.*give architecture="
    ):
        load_model(tmp_path / "mine.pth", dataset=CIFAR)
    model = load_model(
        str(tmp_path / "mine.pth"), architecture=empty, dataset=CIFAR | {"classes": list("abcd")}
    )
    close(model(noise(32).to(model.device)).cpu(), observed(network, noise(32))[1])
    assert model.classes == ("a", "b", "c", "d")
    with pytest.raises(ValueError, match=r"keys do not fit; missing \['second.weight'"):
        load_model(tmp_path / "mine.pth", architecture=TwoHeads(), dataset=CIFAR)


def test_normalisation_is_asked_for_and_a_file_s_own_is_used(tmp_path):
    state = resnet("resnet18", width=2).state_dict()
    torch.save(state, tmp_path / "bare.pt")
    with pytest.raises(ValueError, match=r"need mean and std of its training.*cifar10"):
        load_model(tmp_path / "bare.pt")
    with pytest.raises(ValueError, match="got 'cifar11', wanted for instance cifar10"):
        load_model(tmp_path / "bare.pt", dataset="cifar11")
    model = load_model(tmp_path / "bare.pt", dataset="cifar10", device="cpu")
    assert model.classes[3] == "cat" and model.image_size == 32
    own = {
        "normalizer.new_mean": torch.full((3, 1, 1), 0.25),
        "normalizer.new_std": torch.full((3, 1, 1), 0.5),
    }
    torch.save(
        {f"module.model.{key}": t for key, t in state.items()}
        | {f"module.{k}": t for k, t in own.items()},
        tmp_path / "robust.pt",
    )
    model = load_model(tmp_path / "robust.pt", dataset="cifar10", device="cpu")
    assert model.mean.flatten().tolist() == [0.25] * 3 and model.std.flatten().tolist() == [0.5] * 3
    assert (
        load_model(tmp_path / "robust.pt", dataset=CIFAR, device="cpu").mean.flatten().tolist()
        == [0.5] * 3
    )


def test_half_precision_safetensors_by_architecture_name(tmp_path):
    from safetensors.torch import save_file

    network = seeded(lambda: tv.mobilenet_v2(num_classes=4))
    save_file(
        {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()},
        tmp_path / "m.safetensors",
    )
    model = load_model(
        tmp_path / "m.safetensors",
        architecture="torchvision:mobilenet_v2",
        dataset=CIFAR,
        device="cpu",
    )
    torch.testing.assert_close(model(noise(32)), observed(network, noise(32))[1], atol=1e-2, rtol=0)


@pytest.mark.parametrize("name", ["resnet81", "torchvision:resnet81", "wide-resnet-28"])
def test_an_unknown_architecture_names_near_ones(name, tmp_path):
    torch.save(Small().state_dict(), tmp_path / "mine.pt")
    with pytest.raises(
        ValueError, match=f"architecture: got '{name}', wanted for instance .*resnet"
    ):
        load_model(tmp_path / "mine.pt", architecture=name, dataset=CIFAR)


def test_a_missing_file_is_not_looked_up_as_a_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing.pt"):
        load_model(tmp_path / "nothing.pt")


def test_every_architecture_of_the_manifest_can_be_built():
    wanted = {
        (about.architecture, tuple(about.arguments.items()))
        for about in nb.checkpoints.manifest().values()
    }
    with torch.device("meta"):
        for architecture, arguments in wanted:
            assert isinstance(build_network(architecture, 10, dict(arguments)), nn.Module)


def test_torchvision_by_name():
    model = load_model(
        "torchvision:squeezenet1_1", pretrained=False, layer="features", device="cpu"
    )
    assert (model.image_size, model.components, model.classes[1]) == (224, 512, "goldfish")


TIMM = ["vit_tiny_patch16_224", "convnext_atto", "mobilenetv3_small_050"]


@pytest.mark.skipif(
    not importlib.util.find_spec("timm"), reason="timm is not installed: uv pip install timm"
)
@pytest.mark.parametrize("name", TIMM)
def test_timm_by_name(name):
    model = load_model(f"timm:{name}", pretrained=False, device="cpu")
    assert model.image_size == 224 and len(model.classes) == 1000 and model.classes[0] == "tench"
    with torch.no_grad():
        close(model.head(model.representation(noise(224, 1))), model(noise(224, 1)))
    with pytest.raises(
        ValueError, match=re.escape("got 'timm:resnet81', wanted for instance timm:resnet")
    ):
        load_model("timm:resnet81", pretrained=False)


def test_a_network_that_views_its_map_as_one_row():
    class Viewing(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 8 * 8, 5)

        def forward(self, x):
            x = torch.relu(self.conv(x))
            return self.head(x.view(len(x), -1))

    network, images = Viewing().eval(), torch.rand(3, 3, 8, 8)
    model = nb.Model(network, image_size=8)
    assert torch.allclose(model(images), network(images), atol=1e-5)
    assert model.representation(images).shape == (3, 256)
    assert nb.minimize(
        model.representation, nb.match(model.representation(images)), nb.noise(3, size=8), steps=2
    )


def test_what_the_user_allows_for_speed_does_not_loosen_the_check():
    class Traced(nn.Module):
        """Differs by 0.5 % when traced."""

        def __init__(self):
            super().__init__()
            *layers, self.head = small()
            self.net = nn.Sequential(*layers)

        def forward(self, x):
            return self.head(self.net(x) * (1.005 if isinstance(x, torch.fx.Proxy) else 1))

    network, images = Traced().eval(), torch.rand(2, 3, 32, 32)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        model = Model(network)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert "its trace computes something else" in repr(model)
    torch.testing.assert_close(model(images), network(images))


@pytest.mark.filterwarnings("ignore:.*torch.jit:")
def test_torchscript_inside_a_network_is_one_clear_line():
    with pytest.raises(ValueError, match="Sequential has TorchScript in '0'"):
        Model(nn.Sequential(torch.jit.script(small()[:2]), *small()[2:]))
