"""The copy attacked in training equals the network, or is not used."""

import dataclasses
from pathlib import Path

import pytest
import torch
from test_resume import pictures
from torch import nn
from torch.nn import functional

from nbhelpers.networks.model import Model
from nbhelpers.training import architectures, loop
from nbhelpers.training.folded import FoldedCopy
from nbhelpers.training.settings import Training

ZERO, ONE = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)


class Own(nn.Module):
    """A traced-through norm, as timm's: no leaf module has its statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
        self.register_buffer("seen", torch.zeros(8), persistent=False)
        self.register_buffer("spread", torch.ones(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.batch_norm(self.conv(x), self.seen, self.spread)
        return self.fc(x.relu().mean((2, 3)))


class Flat(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))[..., None]


def one_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        Flat(),
        nn.Conv1d(8, 8, 1),
        nn.BatchNorm1d(8),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


def instance_norm() -> nn.Module:
    norm = nn.InstanceNorm2d(8, track_running_stats=True)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )


def timm_network(name: str) -> nn.Module:
    return pytest.importorskip("timm").create_model(name, num_classes=4)


@pytest.mark.parametrize(
    "make",
    [
        Own,
        one_dimensional,
        instance_norm,
        lambda: timm_network("mobilenetv3_small_050"),
        lambda: timm_network("resnet10t"),
    ],
    ids=["traced through", "one dimension", "instance norm", "mobilenet", "resnet"],
)
def test_the_copy_follows_every_buffer(make) -> None:
    torch.manual_seed(0)
    network, images = make().train(), torch.rand(4, 3, 64, 64)
    copy = FoldedCopy(network, ZERO, ONE, torch.float32)
    for _ in range(4):
        network(images * 2 + 1)  # changes only the running statistics
    if isinstance(network, Own):
        network.seen.fill_(0.5)
    copy.refresh()
    assert copy.check(images) and network.training
    network.eval()
    with torch.no_grad():
        torch.testing.assert_close(copy(images), network(images), rtol=1e-2, atol=1e-3)


class Counting(nn.Module):
    """Its trace contains a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.calls = nn.Conv2d(3, 8, 3), nn.Linear(8, 2), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.fc(self.conv(x).mean((2, 3))) * (1 + self.calls)


def test_a_copy_that_differs_is_given_up_and_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = FoldedCopy(Counting(), ZERO, ONE, torch.float32)
    assert copy.twin is not None
    copy.network.calls = 5
    assert (
        not copy.check(torch.rand(2, 3, 8, 8))
        and copy.twin is None
        and copy.check(torch.rand(2, 3, 8, 8))
    )
    monkeypatch.setattr(architectures, "build_network", lambda *_: Counting())
    config = Training(
        dataset=str(pictures(tmp_path / "set")),
        epochs=2,
        held_out=8,
        batch_size=8,
        precision="float32",
    )
    run = loop.Trainer(dataclasses.replace(config, eps=0.1), tmp_path / "out", False, "cpu", 1)
    run.epochs()
    told = capsys.readouterr()
    assert (told.out + told.err).count(
        "the folded copy of resnet18 differs from it"
    ) == 1 and run.attacked.twin is None


def test_modes_of_modules_are_kept() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8).eval(), Flat(), nn.Flatten(), nn.Linear(8, 2)
    )
    network.training = True
    FoldedCopy(network, ZERO, ONE, torch.float32)
    assert network.training and network[0].training and not network[1].training


class Shared(nn.Module):
    """A convolution used twice, with different norms."""

    def __init__(self):
        super().__init__()
        self.conv, self.twice = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norms, self.head = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(2)), nn.Linear(8, 4)

    def forward(self, x):
        x = self.conv(x)
        for norm in self.norms:
            x = norm(self.twice(x)).relu()
        return self.head(x.mean((2, 3)))


def test_a_layer_that_is_used_twice_is_not_folded():
    torch.manual_seed(0)
    network, images = Shared().train(), torch.rand(4, 3, 16, 16)
    copy = FoldedCopy(network, torch.zeros(3, 1, 1), torch.ones(3, 1, 1), torch.float32)
    network(images)
    copy.refresh()
    with torch.no_grad():
        torch.testing.assert_close(copy(images), network.eval()(images))
        torch.testing.assert_close(Model(network)(images), network(images), atol=1e-5, rtol=1e-5)
