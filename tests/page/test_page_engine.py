"""The page's engine against PyTorch, in the system's Chromium: every operation's gradient, and
whole descents.
"""

import copy
import functools

import pytest
import torch
from browser_support import NEEDS_CHROMIUM, browser
from engine_support import array, engine, sent, tensor
from torch import nn
from torch.nn import functional

import nbhelpers as nb
from nbhelpers.networks.regions import region_shares
from nbhelpers.page.graphs import export_network, layer_of, stored

pytestmark = NEEDS_CHROMIUM


class Around(nn.Module):
    """An operation between a convolution that feeds it positive and negative numbers and a
    linear layer.
    """

    def __init__(self, operation, channels=6, out=6):
        super().__init__()
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.operation = operation
        self.head = nn.Linear(out, 4)

    def forward(self, x):
        return self.head(self.operation(2 * self.first(x)).mean((2, 3)))


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)

    def forward(self, x):
        return functional.relu(self.a(x) + self.b(x) - 0.1 * x)


class Excited(nn.Module):
    """Channels weighed by what their means say."""

    def __init__(self):
        super().__init__()
        self.weigh = nn.Conv2d(6, 6, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.weigh(x.mean((2, 3), keepdim=True)))


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 2, 6)[:, None, None])

    def forward(self, x):
        return functional.gelu(x) * self.scale + 1


class Flattened(nn.Module):
    """Two linear layers, the first over all positions."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=4, padding=1)
        self.wide, self.head = nn.Linear(96, 5), nn.Linear(5, 4)

    def forward(self, x):
        x = functional.relu(self.first(x))
        return self.head(functional.tanh(self.wide(x.flatten(1))))


OPERATIONS = {
    "conv": nn.Conv2d(6, 6, 3, padding=1),
    "conv without bias or padding": nn.Conv2d(6, 6, 3, bias=False),
    "conv of stride 2": nn.Conv2d(6, 6, 3, stride=2, padding=1),
    "conv of stride 2 that leaves a row": nn.Conv2d(6, 6, 2, stride=3),
    "conv of stride (2, 1)": nn.Conv2d(6, 6, (3, 5), stride=(2, 1), padding=(1, 2)),
    "conv 1×1 of stride 2": nn.Conv2d(6, 6, 1, stride=2),
    "conv 1×1 with padding": nn.Conv2d(6, 6, 1, padding=1),
    "conv 7×7": nn.Conv2d(6, 6, 7, padding=3),
    "dilated conv": nn.Conv2d(6, 6, 3, padding=2, dilation=2),
    "grouped conv": nn.Conv2d(6, 6, 3, padding=1, groups=2),
    "grouped conv of stride 2": nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=3),
    "depthwise conv": nn.Conv2d(6, 6, 3, padding=1, groups=6),
    "depthwise conv of stride 2": nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6),
    "batch norm": nn.Sequential(nn.ReLU(), nn.BatchNorm2d(6)),
    "relu": nn.ReLU(),
    "relu after a conv": nn.Sequential(nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3)),
    "relu6": nn.ReLU6(),
    "leaky relu": nn.LeakyReLU(0.2),
    "elu": nn.ELU(0.7),
    "celu": nn.CELU(0.7),
    "selu": nn.SELU(),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
    "gelu by tanh": nn.GELU(approximate="tanh"),
    "softplus": nn.Softplus(beta=2),
    "mish": nn.Mish(),
    "hardtanh": nn.Hardtanh(-0.3, 0.6),
    "hardsigmoid": nn.Hardsigmoid(),
    "hardswish": nn.Hardswish(),
    "average pooling": nn.AvgPool2d(2),
    "average pooling that overlaps": nn.AvgPool2d(3, stride=2, padding=1),
    "average pooling inside": nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
    "max pooling": nn.MaxPool2d(2),
    # ties at 0
    "max pooling that overlaps": nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)),
    "adaptive pooling": nn.AdaptiveAvgPool2d(4),
    "add, sub, and a factor": Residual(),
    "product": Excited(),
    "constants": Scaled(),
    "square": Call(lambda x: x * x),
    "one minus": Call(lambda x: 1 - x),
    "cat": Call(lambda x: torch.cat([x, functional.relu(x)], 1)),
    "dropout and identity": nn.Sequential(nn.Dropout2d(), nn.Identity(), nn.Tanh()),
}


@pytest.fixture(scope="module")
def page():
    with browser() as chrome:
        try:
            with engine(chrome) as page:
                yield page
        except ValueError as error:
            pytest.skip(str(error))


def in_half_precision(network, *, fresh=True):
    """A network with weights that the page stores as they are; drawn anew where `fresh`, so that
    the seed counts.
    """
    for module in network.modules():
        if fresh and hasattr(module, "reset_parameters"):
            module.reset_parameters()
    for weight in network.parameters():
        weight.data = weight.data.half().float()
    return network


GRADIENT = """([name, images, weights, positions]) => tf.tidy(() => {
  const network = networks[name];
  const place = network.places[positions ? "map" : "features"];
  const values = network.values(taken(images), [place, network.places.logits]);
  const slope = weights.shape.length === 4 ? taken(weights) : asSent(weights);
  return [values[place], network.back(values, place, slope), values[network.places.logits]].map(given);
})"""


def gradient(model, images, positions):
    """Features, and the gradient of a fixed weighting of them."""
    images = images.clone().requires_grad_()
    features = model.representation(images, positions=positions)
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(2))
    (slope,) = torch.autograd.grad((features * weights).sum(), images)
    return features.detach(), weights, slope


def steady(model, size, positions):
    """Images where no ReLU is so near its kink that another processor's rounding could switch
    it.
    """
    for seed in range(1, 100):
        generator = torch.Generator().manual_seed(seed)
        images = torch.rand(2, 3, size, size, generator=generator)
        slopes = [
            gradient(model, images + moved, positions)[2]
            for moved in (0, 1e-5 * torch.randn(images.shape, generator=generator), 1e-5, -1e-5)
        ]
        if all((one - slopes[0]).abs().max() <= 3e-4 * slopes[0].abs().max() for one in slopes):
            return images
    raise AssertionError("none in a hundred")


def check(page, model, *, size=16, positions=False):
    """Representation, logits and a gradient through them, in the page and in PyTorch."""
    sent(page, "one", model)
    images = steady(model, size, positions)
    features, weights, wanted = gradient(model, images, positions)
    if positions:
        features, weights = (
            features.unflatten(1, model.positions),
            weights.unflatten(1, model.positions),
        )
    found = [
        tensor(one)
        for one in page.evaluate(GRADIENT, ["one", array(images), array(weights), positions])
    ]
    with torch.no_grad():
        logits = model(images)
    for got, want in zip(found, (features, wanted, logits), strict=True):
        assert got.shape == want.shape
        assert (got - want).abs().max() <= 1e-3 * want.abs().max()


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_has_the_gradient_of_pytorch(page, name):
    torch.manual_seed(0)
    network = in_half_precision(Around(OPERATIONS[name], out=12 if name == "cat" else 6))
    check(page, nb.Model(network, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), image_size=16))


def test_a_linear_layer_over_positions(page):
    torch.manual_seed(0)
    check(page, nb.Model(in_half_precision(Flattened()), image_size=16))


@pytest.fixture(scope="module")
def halved(tiny_model):
    return in_half_precision(copy.deepcopy(tiny_model), fresh=False)


@pytest.mark.parametrize("positions", (False, True))
def test_a_whole_network_has_the_gradient_of_pytorch(page, halved, positions):
    check(page, halved, size=32, positions=positions)


@pytest.mark.parametrize(
    ("operation", "named"),
    (
        (nn.Softmax(1), "Softmax"),
        (nn.InstanceNorm2d(6, affine=True), "InstanceNorm2d"),
        (nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect"), "reflect"),
        (Call(lambda x: x.flip(3)), "flip"),
        (nn.AdaptiveAvgPool2d(5), "adaptive pooling"),
    ),
)
def test_an_unknown_operation_is_named(operation, named):
    model = nb.Model(Around(operation), image_size=16)
    with pytest.raises(ValueError, match=named):
        export_network(model)


def test_half_precision_loses_nothing_of_folded_halves_and_little_of_others():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 3, 16, 32, generator=generator) * torch.logspace(-3, 3, 32)
    for given, bound in (
        (weight.half().float() * torch.rand(32, generator=generator), 2e-7),
        (weight, 5e-4),
    ):
        halves, scale = stored(given)
        back = torch.tensor(halves.astype("float32") * scale)
        assert (
            (back - given).abs() <= bound * given.abs() + 1e-9 * given.abs().amax((0, 1, 2))
        ).all()


RUN = """([name, target, start, options]) => {
  const network = networks[name];
  const kept = tf.memory().numTensors;
  const shown = tf.tidy(() => {
    const goal = options.components
      ? Engine.activate(options.components, options.ceilings)
      : Engine.match(network.at(options.place, taken(target)));
    const shown = [];
    const from = taken(start);
    for (const { index, images, losses } of Engine.descend(network, goal, from, options))
      if (options.at.includes(index)) shown.push({ losses: Array.from(losses.dataSync()), images: given(images) });
    goal.dispose();
    return shown;
  });
  return { shown, left: tf.memory().numTensors - kept };
}"""
AT = [0, 1, 20, 50]
N = 12


@pytest.fixture(scope="module")
def pair():
    return {
        name: nb.load_model(name, device="cpu") for name in ("cifar10-standard", "cifar10-l2-0.5")
    }


# A descent amplifies what rounding does: PyTorch's own run parts from itself when the start is
# moved by 1e-7, in the standard network after some tens of steps, and one image's last distance by
# a tenth. So the last distance is a mean.
@pytest.mark.parametrize("goal", ("positions", "averaged", "activate"))
@pytest.mark.parametrize("name", ("cifar10-standard", "cifar10-l2-0.5"))
def test_a_descent_is_the_one_of_pytorch(page, pair, name, goal):
    model, positions = pair[name], goal == "positions"
    sent(page, name, model)
    target, start = nb.load_images("cifar10-sample", indices=range(N))[0], nb.noise(N, seed=0)
    f = functools.partial(model.representation, positions=positions)
    options = {
        "place": "map" if positions else "features",
        "steps": AT[-1],
        "stepSize": 0.1 if goal == "activate" else 0.2,
        "at": AT,
    }
    if goal == "activate":
        parts = list(range(7, 7 + 5 * N, 5))
        ceilings = [50.0, 0.2] * (N // 2)
        options |= {"components": parts, "ceilings": ceilings}
        objective = nb.activate(parts, ceiling=torch.tensor(ceilings))
    else:
        objective = nb.match(f(target))
    found = page.evaluate(RUN, [name, array(target), array(start), options])
    run = nb.descend(
        f, objective, start, solver=nb.Solver(step_size=options["stepSize"]), steps=AT[-1]
    )
    steps = [step for step in run if step.index in AT]
    for step, shown in zip(steps, found["shown"], strict=True):
        losses, images = torch.tensor(shown["losses"]), tensor(shown["images"])
        apart = float((images - step.images).abs().mean() * 255)
        print(
            name, goal, step.index, round(apart, 2), float(losses.mean()), float(step.losses.mean())
        )
        assert step.index > 20 or apart <= 3
        assert abs(losses.mean() / step.losses.mean() - 1) <= 0.05
    assert found["left"] == 0  # nothing is kept of a run


OTHERS = """([target, start, mask, options]) => tf.tidy(() => {
  const { tiny } = networks;
  const from = taken(start);
  const at = () => tiny.at(options.place, taken(target));
  const weights = () => tf.transpose(asSent(mask), [0, 2, 3, 1]);
  const goals = {
    match: () => Engine.match(at()),
    leave: () => Engine.leave(tiny.at(options.place, from)),
    rest: () => Engine.weighted(weights(), Engine.match(tf.mul(at(), weights()))),
    region: () => Engine.region(weights(), Engine.activate([5])),
  };
  const begin = options.begin ? taken(options.begin) : from;
  for (const { index, images, losses } of Engine.descend(tiny, goals[options.goal](), begin, options))
    if (index === options.steps) return { losses: Array.from(losses.dataSync()), images: given(images) };
})"""


@pytest.mark.parametrize("goal", ("match", "leave", "rest", "region"))
def test_balls_and_regions_are_those_of_pytorch(page, halved, goal):
    sent(page, "tiny", halved)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    target, start, mask = images[2:], images[:1], torch.zeros(32, 32)
    mask[:16] = 1
    f, positions = halved.representation, functools.partial(halved.representation, positions=True)
    shares = region_shares(halved, mask)
    begin, project = start, nb.l2_ball(start, 0.5)
    options = {"goal": goal, "place": "map", "steps": 12, "stepSize": 0.8, "radius": 0.5}
    if goal == "match":
        options["place"], objective = "features", nb.match(f(target))
    elif goal == "leave":
        begin = project(images[1:2])
        options |= {"begin": array(begin)}
        project, f, objective = nb.l2_ball(begin, 0.5), positions, nb.leave(positions(start))
    elif goal == "rest":
        shares = shares / shares.max()
        f = nb.region(halved, mask, positions=True)
        objective = nb.match(f(target))
    else:
        f, objective = nb.region(halved, mask), nb.activate(5)
    wanted = list(
        nb.descend(f, objective, begin, steps=12, solver=nb.Solver(step_size=0.8), project=project)
    )[-1]
    found = page.evaluate(OTHERS, [array(target), array(start), array(shares), options])
    assert torch.allclose(torch.tensor(found["losses"]), wanted.losses, rtol=1e-3)
    assert (tensor(found["images"]) - wanted.images).abs().max() <= 1e-3


AT_LAYER = (
    "([name, images, place]) => tf.tidy(() => given(networks[name].at(place, taken(images))))"
)


def test_every_layer_is_the_one_of_pytorch(page, halved):
    sent(page, "tiny", halved)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    layers = export_network(halved)["layers"]
    assert [layer["name"] for layer in layers[::2]] == [
        "32 × 32 × 4",
        "16 × 16 × 8",
        "8 × 8 × 16",
        "4 × 4 × 32",
    ]
    for k, layer in enumerate(layers):
        found = tensor(page.evaluate(AT_LAYER, ["tiny", array(images), f"layer{k}"]))
        wanted = layer_of(halved, layer["node"])(images)
        assert (found.flatten(1) - wanted).abs().max() <= 1e-3 * wanted.abs().max()
