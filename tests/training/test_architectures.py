"""Networks to train equal the library's, for any image size, with auxiliary heads."""

import dataclasses
from pathlib import Path

import pytest
import torch
from test_resume import pictures
from torch import nn
from torch.nn import functional

import nbhelpers as nb
from nbhelpers.networks.loading import build_network
from nbhelpers.training import architectures
from nbhelpers.training.architectures import AUXILIARY, build, loss
from nbhelpers.training.loop import Trainer, train
from nbhelpers.training.settings import Training

SMALL = Training(epochs=1, held_out=8, batch_size=8, precision="float32", eps=0.1)


@pytest.mark.parametrize(
    ("name", "side", "arguments"),
    [
        ("resnet18", 32, {"width": 16, "downsample": "pool"}),
        ("wide-resnet-10-1", 32, {}),
        ("torchvision:googlenet", 32, {}),
        ("torchvision:mobilenet_v3_small", 32, {}),
        ("torchvision:squeezenet1_1", 32, {}),
        ("torchvision:inception_v3", 299, {}),
        ("torchvision:vit_b_16", 32, {"image_size": 32}),
        ("timm:vit_tiny_patch16_224", 48, {"img_size": (48, 48)}),
        ("timm:mobilenetv3_small_050", 32, {}),
    ],
)
def test_library_networks_are_built_for_the_images(name, side, arguments) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm")
    network, found = build(dataclasses.replace(SMALL, architecture=name), 4, (3, side, side))
    assert found == arguments
    with torch.no_grad():
        assert network.eval()(torch.zeros(2, 3, side, side)).shape == (2, 4)
    same = build_network(name, 4, found).state_dict()
    assert same.keys() == network.state_dict().keys()  # auxiliary heads included


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("torchvision:alexnet", (3, 32, 32)),
        ("torchvision:inception_v3", (3, 32, 32)),
        ("torchvision:vit_b_16", (3, 40, 40)),
        ("torchvision:vit_b_16", (3, 32, 48)),
        ("resnet18", (1, 32, 32)),
    ],
)
def test_images_that_a_network_does_not_take_are_one_clear_line(name, shape) -> None:
    with pytest.raises(ValueError, match=f"architecture: {name} takes no images of") as error:
        build(dataclasses.replace(SMALL, architecture=name), 4, shape)
    assert "\n" not in f"{error.value}" and "image_size" in f"{error.value}"


def test_further_heads_count_a_part() -> None:
    torch.manual_seed(0)
    main, other, labels = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    one, two = (functional.cross_entropy(logits, labels) for logits in (main, other))
    torch.testing.assert_close(loss(main, labels), one)
    torch.testing.assert_close(loss((main, None, None), labels), one)
    torch.testing.assert_close(loss((main, other, other), labels), one + 2 * AUXILIARY * two)


def test_the_weights_of_a_build_are_those_of_the_seed() -> None:
    """Trial passes do not change it."""
    config = dataclasses.replace(SMALL, architecture="torchvision:googlenet", seed=3)
    first, second = (build(config, 4, (3, 32, 32))[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert all(int(first[key]) == 0 for key in first if key.endswith("num_batches_tracked"))


def test_googlenet_is_trained_and_loaded(tmp_path: Path) -> None:
    source = pictures(tmp_path / "set", n=12, size=(32, 32))
    config = dataclasses.replace(
        SMALL, architecture="torchvision:googlenet", dataset=str(source), learning_rate=0.01
    )
    train(config, tmp_path / "out", device="cpu")
    model = nb.load_model(tmp_path / "out" / "weights.safetensors", device="cpu")
    assert model.classes == ("cat", "dog") and model.components == 1024
    (tmp_path / "out" / "state.safetensors").unlink()  # 80 MB that pytest would keep
    begun, _ = build(
        dataclasses.replace(config, start=str(tmp_path / "out" / "weights.safetensors")),
        5,
        (3, 32, 32),
    )  # all three heads are for another number of classes
    saved = torch.nn.utils.parameters_to_vector(begun.conv1.parameters())
    assert saved.isfinite().all()


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.layer = nn.Parameter(torch.tensor(0.5)), nn.Linear(3, 2)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.layer(x.mean((2, 3))) * self.scale)


def test_scalars_learn_and_dropout_does_not_break_resuming(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(architectures, "build_network", lambda *_: Scaled())
    config = dataclasses.replace(SMALL, dataset=str(pictures(tmp_path / "set")), epochs=2, eps=0)
    whole = Trainer(config, tmp_path / "whole", False, "cpu", 1)
    whole.epochs()
    assert float(whole.network.scale.detach()) != 0.5
    broken = Trainer(config, tmp_path / "broken", False, "cpu", 1)
    epoch, done = Trainer.epoch, []

    def once(self, index, *more):
        if done:
            raise KeyboardInterrupt
        done.append(index)
        return epoch(self, index, *more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "epoch", once)
        broken.epochs()
    torch.rand(7)
    resumed = Trainer(config, tmp_path / "broken", True, "cpu", 1)
    resumed.epochs()
    for key, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, resumed.network.state_dict()[key])
