"""User networks: pickled, hooked, of odd axes, sizes and channels; errors are one line."""

import copy
import io
import pickle
import threading

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

import nbhelpers as nb
from nbhelpers.networks.loading import load_model
from nbhelpers.networks.resnets import resnet

CIFAR = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


def net(channels=3):
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )


def noise(n, *shape):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(1))


def saved_and_loaded(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved_and_loaded]
)
def test_a_copy_keeps_fake_relu_and_positions(tiny_model, copied):
    again = copied(copied(tiny_model))
    x = noise(1, 3, 32, 32).requires_grad_()
    for positions in (False, True):
        for fake in (True, False):
            slopes = [
                torch.autograd.grad(m.representation(x, fake, positions).sum(), x)[0]
                for m in (tiny_model, again)
            ]
            assert torch.equal(*slopes)
    true, fake = (
        torch.autograd.grad(again.representation(x, fake).sum(), x)[0] for fake in (False, True)
    )
    assert not torch.equal(true, fake)
    assert repr(again) == repr(tiny_model) and again.positions == tiny_model.positions


class Scaled(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.net, self.by = net(), by

    def forward(self, x):
        return self.by * self.net(x)


def test_logits_off_by_a_little_are_not_the_linear_layer_s():
    for by in (1.005, 1.0005):
        network, images = Scaled(by), noise(2, 3, 32, 32)
        model = nb.Model(network)
        assert "no head" in repr(model)
        torch.testing.assert_close(model(images), network(images))
    assert "no head" not in repr(nb.Model(Scaled(1.0)))


class Axes(nn.Module):
    """A map (n, 8, 8, 8) with permuted axes; as many channels as rows."""

    def __init__(self, order):
        super().__init__()
        self.order, self.conv, self.layer, self.fc = (
            order,
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Identity(),
            nn.Linear(8, 4),
        )

    def forward(self, x):
        z = torch.relu(self.conv(x))
        if self.order == "nhwc":
            return self.fc(self.layer(z.permute(0, 2, 3, 1)).mean((1, 2)))
        if self.order == "ncp":
            return self.fc(self.layer(z.flatten(2)).mean(2))
        if self.order == "tnd":
            return self.fc(self.layer(z.flatten(2).permute(2, 0, 1)).mean(0))
        return self.fc(
            self.layer(z.permute(0, 2, 3, 1).flatten(0, 2)).unflatten(0, (len(x), -1)).mean(1)
        )


@pytest.mark.parametrize("size", [8, (8, 6), (2, 4)])
@pytest.mark.parametrize("order", ["nhwc", "ncp", "tnd"])
def test_a_layer_is_pooled_over_positions_in_any_order_of_axes(order, size):
    torch.manual_seed(0)
    network = Axes(order)
    sides = size if isinstance(size, tuple) else (size, size)
    images = noise(3, 3, *sides)
    model = nb.Model(network, layer="layer", image_size=size)
    wanted = torch.relu(network.conv(images)).mean((2, 3))
    torch.testing.assert_close(model.representation(images), wanted)
    assert (
        model.positions[0] == 8 and model.positions[1] * model.positions[2] == sides[0] * sides[1]
    )
    maps = model.representation(images, positions=True).unflatten(1, model.positions)
    torch.testing.assert_close(maps.flatten(2), torch.relu(network.conv(images)).flatten(2))
    whole = nb.Model(network, image_size=size)
    torch.testing.assert_close(whole.representation(images), wanted)
    maps = whole.representation(images, positions=True).unflatten(1, whole.positions)
    torch.testing.assert_close(maps.flatten(2), torch.relu(network.conv(images)).flatten(2))


def test_rows_that_are_parts_of_images_are_refused():
    with pytest.raises(ValueError, match="has no axis of images; name another layer"):
        nb.Model(Axes("windows"), layer="layer", image_size=8)


class Excited(nn.Module):
    def __init__(self):
        super().__init__()
        self.c, self.o = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 10, 1)
        self.f, self.g = nn.Linear(16, 4), nn.Linear(4, 16)

    def forward(self, x):
        x = torch.relu(self.c(x))
        return self.o(
            x * torch.sigmoid(self.g(torch.relu(self.f(x.mean((2, 3))))))[:, :, None, None]
        ).mean((2, 3))


def test_a_linear_layer_beside_the_path_is_no_head():
    with pytest.raises(ValueError, match="logits come from more than 'g''s input; name a layer="):
        nb.Model(Excited())
    assert nb.Model(Excited(), layer="c").components == 16


def flattening():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16 * 12, 4)
    )


def test_another_size_than_the_network_s_is_refused():
    model = nb.Model(flattening(), image_size=(16, 12))
    assert (
        model.image_size == (16, 12)
        and "16×12 pixels" in repr(model)
        and model.components == 4 * 16 * 12
    )
    assert model(noise(2, 3, 16, 12)).shape == (2, 4)
    for act in (model, model.representation):
        with pytest.raises(
            ValueError, match=r"set up for 16×12 pixels, got 32×32 \(use size=\(16, 12\)\)"
        ):
            act(noise(2, 3, 32, 32))
    other = nb.Model(net(), image_size=16)
    assert other.representation(noise(2, 3, 20, 30)).shape == (2, 8)  # pooled: any size
    with pytest.raises(ValueError, match="set up for 16×16"):
        other.representation(noise(2, 3, 20, 30), positions=True)


class Random(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        return self.net[4](nn.functional.dropout(self.net[:4](x), training=True))


def test_what_is_no_function_of_one_image_is_said_once():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False), *net()[1:]
    )
    for odd, why in ((network, "batch norm without running statistics"), (Random(), "random")):
        with pytest.warns(UserWarning, match=why):
            model = nb.Model(odd)
        assert "not a function of one image" in repr(model) and why in repr(model)


class Exit(nn.Module):
    def __init__(self):
        super().__init__()
        self.c, self.a, self.b = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x):
        z = torch.relu(self.c(x)).mean((2, 3))
        return self.a(z) if x.mean() > 0.2 else self.b(2 * z)


class ByKeyword(Exit):
    def forward(self, x):
        return self.a(input=torch.relu(self.c(x)).mean((2, 3)))


class ByKeywordUntraced(ByKeyword):
    def forward(self, x):
        return super().forward(x if x.mean() < 100 else -x)


def test_an_early_exit_says_so():
    model = nb.Model(Exit())
    with pytest.raises(ValueError, match=r"'b' was called 0 times.*early exit.*layer="):
        model.representation(torch.full((2, 3, 32, 32), 0.9))


@pytest.mark.parametrize("build", [ByKeyword, ByKeywordUntraced])
def test_a_head_called_by_keyword(build):
    network, images = build(), noise(2, 3, 32, 32)
    model = nb.Model(network)
    torch.testing.assert_close(model(images), network(images))
    torch.testing.assert_close(model.head(model.representation(images)), network(images))


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.gain = net(), nn.Parameter(torch.ones(1, 1, 8, 1, 1))

    def forward(self, x):
        return self.net[4]((self.net[0](x)[:, None] * self.gain)[:, 0].mean((2, 3)))


class Keeps(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.log = net(), []

    def forward(self, x):
        self.last = self.net[:4](x)
        self.log.append([self.last])
        return self.net[4](self.last)


class Log:
    def __init__(self):
        self.lock = threading.Lock()

    def see(self, *_):
        pass


def pruned():
    network = net()
    prune.l1_unstructured(network[0], "weight", 0.3)
    return network


def kept():
    network = Keeps()
    network(noise(1, 3, 9, 9))
    return network


def hooked():
    network = net()
    network[0].register_forward_hook(Log().see)
    return network


@pytest.mark.parametrize("build", [Deep, pruned, kept, hooked])
def test_networks_that_are_hard_to_copy(build):
    network, images = build(), noise(2, 3, 32, 32)
    model = nb.Model(network)
    torch.testing.assert_close(model(images), network(images))


class Module(nn.Module):
    """A submodule named as DataParallel's wrapper."""

    def __init__(self):
        super().__init__()
        self.module = net()

    def forward(self, x):
        return self.module(1 - x)


def test_a_part_called_module_is_not_the_whole():
    network, images = Module(), noise(2, 3, 32, 32)
    torch.testing.assert_close(nb.Model(network)(images), network(images))


def test_what_cannot_be_copied_or_watched_gets_one_clear_line():
    network = net()
    network.lock = threading.Lock()
    with pytest.raises(ValueError, match=r"Sequential cannot be copied \(.*lock.*\); remove"):
        nb.Model(network)
    with pytest.raises(TypeError, match=r"network: got function, wanted a torch.nn.Module"):
        nb.Model(noise)
    with pytest.warns(FutureWarning):
        scripted = torch.jit.script(net())
    with pytest.raises(ValueError, match="TorchScript"):
        nb.Model(scripted)


def test_one_channel_networks():
    model = nb.Model(net(1), mean=(0.13,), std=(0.31,), image_size=28)
    assert model.channels == 1 and nb.Model(net(1)).channels == 1
    grey, _ = nb.load_images("cifar10-sample", indices=[0, 1], size=28, channels=model.channels)
    assert grey.shape == (2, 1, 28, 28) and nb.load_images(grey)[0].shape == grey.shape
    assert nb.load_images(grey, channels=3)[0].shape == (2, 3, 28, 28)
    start = nb.noise(2, size=28, channels=model.channels)
    result = nb.minimize(model.representation, nb.match(model.representation(grey)), start, steps=5)
    assert result.losses[-1].sum() < result.losses[0].sum()
    for one, images in ((model, nb.noise(2)), (nb.Model(net()), grey)):
        for act in (one, one.representation):
            with pytest.raises(ValueError, match=r"images: of \d channels"):
                act(images)
    assert nb.Model(net(4), mean=(0,) * 4, std=(1,) * 4)(noise(2, 4, 8, 8)).shape == (2, 4)


def test_images_need_not_be_square():
    images = nb.noise(2, size=(24, 16))
    assert images.shape == (2, 3, 24, 16)
    tall, _ = nb.load_images("cifar10-sample", indices=[0], size=(24, 16))
    assert tall.shape == (1, 3, 24, 16)
    figure = nb.image_grid({"tall": images, "wide": nb.noise(1, size=(200, 300))})
    assert figure.get_label() == "2 × 2 images"
    assert nb.pair.Pair({}, nb.open_images("photographs"), (64, 16), True).length(2.0) == 2.0


# Files.


def load(state, path, **options):
    torch.save(state, path)
    return load_model(path, dataset=CIFAR, device="cpu", **options)


def wrappings(s, other):
    model = {f"model.{k}": v for k, v in s.items()}
    return {
        "compiled": {f"_orig_mod.{k}": v for k, v in s.items()},
        "compiled and parallel": {f"module._orig_mod.{k}": v for k, v in s.items()},
        "class weights in the loss": {"state_dict": model | {"criterion.weight": torch.ones(5)}},
        "self.net": {
            "state_dict": {f"net.{k}": v for k, v in s.items()} | {"train_acc.total": torch.ones(1)}
        },
        "any name": {f"a.b.{k}": v for k, v in s.items()},
        "EMA alone": {"state_dict_ema": s},
        "swa": {f"module.{k}": v for k, v in s.items()} | {"n_averaged": torch.tensor(3)},
        "a key of one's own": {"my_weights": s, "epoch": 3},
    }


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("kind", wrappings({}, {}))
def test_wrapped_weights_are_found(kind, own, tmp_path, capsys):
    torch.manual_seed(0)
    network = resnet("resnet18", width=4, classes=5).eval()
    state = wrappings(network.state_dict(), {})[kind]
    model = load(state, tmp_path / "m.pt", architecture=network if own else None)
    images = noise(2, 3, 32, 32)
    torch.testing.assert_close(model(images), network((images - 0.5) / 0.25), atol=1e-4, rtol=1e-4)
    if kind == "class weights in the loss":
        assert "set aside" in capsys.readouterr().out


def test_one_of_several_networks_is_chosen(tmp_path):
    one, two = (net().eval() for _ in range(2))
    pair = {f"model.{k}": v for k, v in one.state_dict().items()} | {
        f"shadow.{k}": v for k, v in two.state_dict().items()
    }
    images = (noise(2, 3, 32, 32) - 0.5) / 0.25
    with pytest.raises(ValueError, match="several networks; choose with #model or #shadow"):
        load(pair, tmp_path / "m.pt", architecture=one)
    for table in (
        {"state_dict": one.state_dict(), "shadow": two.state_dict()},
        pair,
        {"state_dict": pair},
    ):
        torch.save(table, tmp_path / "m.pt")
        model = load_model(
            f"{tmp_path / 'm.pt'}#shadow", architecture=one, dataset=CIFAR, device="cpu"
        )
        torch.testing.assert_close(model(noise(2, 3, 32, 32)), two(images))
    with pytest.raises(ValueError, match="no network under 'teacher'"):
        load_model(f"{tmp_path / 'm.pt'}#teacher", architecture=one, dataset=CIFAR)


def test_layers_that_the_network_lacks_are_not_set_aside(tmp_path):
    deeper = nn.Sequential(*net(), nn.Linear(4, 4))
    with pytest.raises(ValueError, match="left over"):
        load(deeper.state_dict(), tmp_path / "m.pt", architecture=net())


class Normalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mu", torch.full((1, 3, 1, 1), 0.4))
        self.register_buffer("sigma", torch.full((1, 3, 1, 1), 0.2))
        self.net = net()

    def forward(self, x):
        return self.net((x - self.mu) / self.sigma)


@pytest.mark.parametrize("prefix", ["", "module.", "lit."])
def test_a_network_that_normalises_by_itself_does_so_once(prefix, tmp_path):
    network, images = Normalised().eval(), noise(2, 3, 32, 32)
    empty = Normalised()
    empty.mu.zero_()
    model = load(
        {prefix + k: v for k, v in network.state_dict().items()},
        tmp_path / "m.pt",
        architecture=empty,
    )
    torch.testing.assert_close(model(images), network(images))


@pytest.mark.long
def test_the_number_of_classes_is_the_head_s_in_any_order_of_keys(tmp_path):
    torch.manual_seed(0)
    state = resnet("resnet18", width=4, classes=7).state_dict()
    assert len(load(dict(sorted(state.items())), tmp_path / "m.pt").classes) == 7
    save_file(torchvision.models.swin_t(num_classes=6).state_dict(), tmp_path / "s.safetensors")
    model = load_model(
        tmp_path / "s.safetensors",
        architecture="torchvision:swin_t",
        dataset=CIFAR,
        device="cpu",
        layer="norm",
    )
    assert len(model.classes) == 6


@pytest.mark.parametrize("image_size", [(96, 32), [96, 32], np.array([96, 32])])
def test_height_and_width_come_from_the_data_set_s_facts(image_size, tmp_path):
    torch.save(net().state_dict(), tmp_path / "m.pt")
    model = load_model(
        tmp_path / "m.pt",
        architecture=net(),
        dataset={**CIFAR, "image_size": image_size},
        device="cpu",
    )
    assert model.image_size == (96, 32)
