"""A model stays frozen inside any module, and works with other tools."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import nbhelpers as nb
from nbhelpers.networks import WideResNet, resnet

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Branching(WideResNet):
    """Not traceable: control flow depends on values."""

    def forward(self, x):
        return super().forward(x if x.mean() > -1e9 else -x)


class Student(nn.Module):
    def __init__(self, teacher: nb.Model):
        super().__init__()
        self.teacher, self.own = nn.ModuleList([teacher]), nn.Linear(3, 2)

    def forward(self, x):
        return self.teacher[0].representation(x)


def each(student, do):
    for module in student.modules():
        do(module)


def initialised(module):
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        nn.init.constant_(tensor, 0.5)


def every_parameter_takes_gradients(student):
    for parameter in student.parameters():
        parameter.requires_grad = True


@pytest.fixture(params=["folded", "unfolded", "hooked"])
def model(request):
    torch.manual_seed(0)
    if request.param == "folded":
        return nb.Model(resnet("resnet18", width=8), image_size=32)
    network = (Branching if request.param == "hooked" else WideResNet)(depth=10, widen=1)
    return nb.Model(network, image_size=32)


@pytest.mark.parametrize(
    "do",
    [
        lambda s: s.train(),
        lambda s: each(s, lambda module: module.train()),
        lambda s: s.apply(lambda module: setattr(module, "training", True)),
        lambda s: s.apply(initialised),
        lambda s: s.requires_grad_(),
        lambda s: each(s, lambda module: module.requires_grad_(True)),
        every_parameter_takes_gradients,
        lambda s: s.half(),
        lambda s: s.to(torch.bfloat16).float(),
        lambda s: s.double().float(),
        lambda s: s.to(memory_format=torch.channels_last),
    ],
)
def test_nothing_around_it_changes_a_model(model, do):
    student = Student(model)
    wanted = model.representation(IMAGES)
    do(student)
    optimizer = torch.optim.SGD(student.parameters(), lr=1.0, weight_decay=1.0)
    x = IMAGES.clone().requires_grad_()
    student(x).float().sum().backward()
    optimizer.step()
    student.eval()
    torch.testing.assert_close(model.representation(IMAGES), wanted, atol=1e-4, rtol=1e-4)
    assert x.grad is not None
    assert all(not p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(part.training for part in model.modules())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_is_frozen_too(model, copied):
    twin = copied(copied(model))
    torch.testing.assert_close(twin(IMAGES), model(IMAGES))
    every_parameter_takes_gradients(twin.requires_grad_())
    assert not any(parameter.requires_grad for parameter in twin.parameters())


def test_double_is_double(model):
    wanted = model.representation(IMAGES)
    found = model.double().representation(IMAGES.double())
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("what", ["representation", "logits"])
def test_gradients_of_contiguous_images_are_contiguous(model, what):
    x = IMAGES.clone().requires_grad_()
    f = model.representation if what == "representation" else model
    (gradient,) = torch.autograd.grad(f(x).sum(), x)
    assert gradient.is_contiguous() and gradient.view(len(x), -1).shape == (2, 3072)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")  # torch's own, in jvp
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_torch_func_takes_a_model():
    model = nb.Model(resnet("resnet18", width=8), image_size=32)

    def three(image):
        return model.representation(image[None])[0, :3]

    rows = torch.func.jacrev(three)(IMAGES[0])
    for component in range(3):
        x = IMAGES[:1].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model.representation(x)[0, component], x)
        torch.testing.assert_close(rows[component], gradient[0])
    several = torch.func.vmap(torch.func.grad(lambda image: three(image)[0]))(IMAGES)
    torch.testing.assert_close(several[0], rows[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        torch.func.jvp(three, (IMAGES[0],), (IMAGES[1],))[1],
        (rows * IMAGES[1]).sum((1, 2, 3)),
        atol=1e-4,
        rtol=1e-3,
    )


@pytest.mark.long
@pytest.mark.parametrize("strict", [False, True])
def test_torch_export_takes_a_model(strict):
    model = nb.Model(resnet("resnet18", width=8), image_size=32)
    exported = torch.export.export(model, (IMAGES,), strict=strict).module()
    torch.testing.assert_close(exported(IMAGES), model(IMAGES))


HOOKS = {
    "pruned": lambda conv: prune.l1_unstructured(conv, "weight", 0.3),
    "pruned in channels": lambda conv: prune.ln_structured(conv, "weight", 0.3, n=2, dim=0),
    "spectral norm": spectral_norm,
    "weight norm": weight_norm,
    "new weight norm": parametrizations.weight_norm,
    "new spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "parametrized": lambda conv: parametrize.register_parametrization(conv, "weight", nn.Tanh()),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("change", HOOKS.values(), ids=HOOKS)
@pytest.mark.parametrize("which", ["conv", "linear"])
def test_computed_weights_are_kept(change, which):
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    network = nn.Sequential(*parts, nn.Flatten(), nn.Linear(8, 5))
    network(torch.rand(8, 3, 32, 32))  # running statistics
    change(network[0] if which == "conv" else network[5])
    network.eval()
    model = nb.Model(network, image_size=32)
    torch.testing.assert_close(model(IMAGES), network(IMAGES), atol=1e-4, rtol=1e-4)
    start, f = nb.noise(2, size=32), model.representation
    losses = nb.minimize(f, nb.match(f(IMAGES)), start, steps=5).losses
    assert (losses.min(0).values < losses[0]).all()


@pytest.mark.parametrize(
    ("classes", "wanted"),
    [
        ({0: "cat", 1: "dog"}, ("cat", "dog")),
        ({"1": "dog", "0": "cat"}, ("cat", "dog")),
        (["cat", "dog"], ("cat", "dog")),
        (None, ("0", "1")),
        ({}, ("0", "1")),
    ],
)
def test_class_names_by_their_indices(classes, wanted):
    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 2))
    assert nb.Model(network, classes=classes, image_size=32).classes == wanted


@pytest.mark.parametrize("classes", [{"cat": 0, "dog": 1}, {1: "cat", 2: "dog"}, {0: "cat"}])
def test_other_tables_of_classes_are_refused(classes):
    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 2))
    with pytest.raises(ValueError, match="classes: got"):
        nb.Model(network, classes=classes, image_size=32)


def test_a_size_that_nobody_tries_asks_for_image_size():
    body = [nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 144, 10)]
    network = nn.Sequential(*body)
    with pytest.raises(ValueError, match="give image_size="):
        nb.Model(network, mean=[0.13], std=[0.31])
    assert nb.Model(network, mean=[0.13], std=[0.31], image_size=28).channels == 1
