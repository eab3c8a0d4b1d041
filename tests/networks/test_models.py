"""Built-in networks: the cut keeps values, the fake ReLU changes only gradients; clear errors."""

import threading

import numpy as np
import pytest
import torch
from samples import small
from torch import nn
from torch.nn import functional

import nbhelpers as nb
from nbhelpers.networks.loading import best_precision, load_model
from nbhelpers.networks.model import Model
from nbhelpers.networks.resnets import resnet
from nbhelpers.types import pick_device

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
NAMES = ["cifar10-standard", "cifar10-l2-0.5"]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = resnet("resnet18", width=4)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # fresh statistics would fold into nothing
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return network.eval()


@pytest.fixture(scope="module")
def model(network):
    return Model(network, mean=MEAN, std=STD, image_size=32)


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def normalised(images):
    return (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def test_values_are_the_network_s(network, model, images):
    seen = []
    handle = network.linear.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        logits = network(normalised(images))
    handle.remove()
    for fake in (True, False):
        torch.testing.assert_close(model.representation(images, fake), seen[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(model(images), logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(model.head(model.representation(images)), logits, atol=1e-4, rtol=0)


def test_batch_norm_is_gone_and_the_original_untouched(network, model):
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) == 20
    assert "batch norm folded" in repr(model) and "no final ReLU" not in repr(model)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_fake_relu_revives_a_dead_component(network, images):
    model = Model(network, mean=MEAN, std=STD)
    model.parts.trunk.get_submodule("layer4.1.conv2").bias.data.fill_(-100)
    gradients = {}
    for fake in (True, False):
        x = images.clone().requires_grad_()
        model.representation(x, fake)[:, 0].sum().backward()
        gradients[fake] = x.grad.abs().max()
    assert model.representation(images).abs().max() == 0
    assert gradients[True] > 0 and gradients[False] == 0


def test_parameters_take_no_gradient(model, images):
    x = images.clone().requires_grad_()
    model.representation(x).sum().backward()
    assert x.grad is not None and all(
        not p.requires_grad and p.grad is None for p in model.parameters()
    )
    assert not model.training


def test_nothing_after_the_cut_is_computed(model):
    assert not any(module is model.head for module in model.parts.trunk.modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.5,)}, "does not run on 1 channels"),
        ({"mean": (0.5,), "std": (1, 1, 1)}, "one positive std per channel"),
        ({"std": (1, 0, 1)}, "one positive std per channel"),
        ({"classes": ["a", "b"]}, "got 2 names, the network has 10 outputs"),
        ({"layer": "layr3"}, "near names: layer3"),
        ({"pool": "max"}, "wanted 'mean' or 'flatten'"),
        ({"layer": "layer3", "pool": "flatten"}, "give image_size="),
    ],
)
def test_bad_options_get_one_clear_line(network, options, message):
    with pytest.raises(ValueError, match=message):
        Model(network, **options)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.full((1, 3, 32, 32), 200.0), "divide by 255"),
        (torch.full((1, 3, 32, 32), -1.0), "do not normalise"),
        (torch.zeros(3, 32, 32), "add the batch dimension"),
    ],
)
def test_bad_images_get_one_clear_line(model, bad, message):
    with pytest.raises(ValueError, match=message):
        model(bad)


def test_images_must_be_on_the_model_s_device(model):
    with pytest.raises(ValueError, match=r"use images.to\(model.device\)"):
        model(torch.zeros(1, 3, 32, 32, device="meta").requires_grad_())


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_network_loads_by_its_name(name, images):
    model = load_model(name, device="cpu")
    assert (model.name, model.components, len(model.classes), model.image_size) == (
        name,
        128,
        10,
        32,
    )
    assert model.classes[0] == "airplane" and model.device.type == "cpu"
    assert model(images).shape == (3, 10)


def test_a_name_wins_over_its_last_dot():
    assert load_model("cifar10-l2-0.5", device="cpu").name == "cifar10-l2-0.5"
    with pytest.raises(ValueError, match=r"near names: .*cifar10-l2-0.5"):
        load_model("cifar10-l2-0.6")


def test_a_device_that_is_not_there(monkeypatch):
    with pytest.raises(ValueError, match="use 'auto' or 'cpu'"):
        pick_device("warp")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")


def test_the_device_is_looked_at_before_anything_is_read(monkeypatch):
    monkeypatch.setattr("nbhelpers.networks.loading.fetch", lambda name: pytest.fail("read"))
    with pytest.raises(ValueError, match="device"):
        load_model("cifar10-l2-0.5", device="warp")


class Wild(nn.Module):
    """Not traceable: control flow depends on values."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 4)

    def forward(self, x):
        x = functional.relu(self.norm(self.conv(x)))
        return self.fc((x if x.mean() > 100 else 2 * x).mean((2, 3)))


def test_two_threads_do_not_see_each_other(images):
    """Threads share the hook of an untraceable network, not its results."""
    model = Model(Wild().eval())
    wanted = [model.representation(image[None]) for image in images]
    wrong = []

    def work(i):
        for _ in range(50):
            if not torch.equal(model.representation(images[i, None]), wanted[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_bfloat16_is_for_gradients_alone(images):
    exact, half = (
        load_model(NAMES[1], device="cpu"),
        load_model(NAMES[1], device="cpu", precision="bfloat16"),
    )
    for f, g in ((exact, half), (exact.representation, half.representation)):
        with torch.no_grad():
            assert torch.equal(f(images), g(images))
            assert torch.equal(f(images), g(images.clone().requires_grad_()))
        gradients = []
        for network in (f, g):
            x = images.clone().requires_grad_()
            values = network(x)
            assert values.dtype == torch.float32
            gradients.append(torch.autograd.grad(values[:, 0].sum(), x)[0].flatten(1))
        assert (functional.cosine_similarity(*gradients) > 0.99).all() and not torch.equal(
            *gradients
        )


@pytest.mark.long
def test_bfloat16_ends_as_near():
    images = nb.load_images("cifar10-sample", indices=range(3))[0]
    ends = {}
    for precision in ("float32", "bfloat16"):
        model = load_model(NAMES[1], device="cpu", precision=precision)
        goal = nb.match(model.representation(images))
        ends[precision] = nb.minimize(
            model.representation, goal, nb.noise(3), steps=40, solver=nb.Solver(keep="last")
        ).loss.mean()
    assert ends["bfloat16"] < 1.1 * ends["float32"]


def test_auto_takes_the_precision_that_suits_the_device(monkeypatch):
    for suits in ("float32", "bfloat16"):
        monkeypatch.setattr(
            "nbhelpers.networks.loading.best_precision", lambda device, suits=suits: suits
        )
        assert load_model(NAMES[1], device="cpu", precision="auto").precision == suits
    with pytest.raises(ValueError, match="'float32', 'bfloat16' or 'auto'"):
        load_model(NAMES[1], precision="half")


def test_bfloat16_suits_what_computes_in_it(monkeypatch):
    for able, suits in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, able=able, **__: able)
        assert best_precision(torch.device("cuda")) == suits
    assert best_precision(torch.device("mps")) == "float32"


def test_class_names_are_plain_text():
    assert (
        repr(Model(small(), classes=np.array(["a", "b", "c", "d"])).classes)
        == "('a', 'b', 'c', 'd')"
    )


def test_random_weights_keep_activations_and_nothing_of_training(tiny_model):
    images = nb.noise(4)
    before = tiny_model.representation(images)
    fresh, again, other = (nb.untrained(tiny_model, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(tiny_model.representation(images), before)
    assert torch.equal(fresh.representation(images), again.representation(images))
    assert not torch.equal(fresh.representation(images), other.representation(images))
    assert 0.01 < fresh.representation(images).std() < 100
    assert all(not weight.requires_grad for weight in fresh.parameters())
