"""ResNets for 32-pixel images, with the keys of published CIFAR checkpoints."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

Downsample = Literal["stride", "pool"]


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut (He et al., arXiv:1512.03385)."""

    expansion = 1

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = _shortcut(channels_in, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions and a shortcut; the output is four times as wide."""

    expansion = 4

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.shortcut = _shortcut(channels_in, 4 * channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        return functional.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """A ResNet with a 3×3 stem and no max-pooling.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        blocks: blocks per stage, four stages.
        width: channels of the first stage, doubled in each later one; 64 is published.
        classes: outputs of the last layer, `linear`.
        downsample: "stride" (in convolutions, as published), or "pool" (2×2 mean, whose gradient
            has no checkerboard pattern, Odena et al., Distill 2016); same keys.
    """

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        blocks: list[int],
        *,
        width: int = 64,
        classes: int = 10,
        downsample: Downsample = "stride",
    ):
        super().__init__()
        if downsample not in get_args(Downsample):
            raise ValueError(
                f"downsample: got {downsample!r}, wanted one of {', '.join(get_args(Downsample))}"
            )
        self.pool = nn.AvgPool2d(2, ceil_mode=True) if downsample == "pool" else nn.Identity()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels_in = width
        for stage, count in enumerate(blocks):
            channels = width * 2**stage
            layers = []
            for index in range(count):
                halved = stage > 0 and index == 0 and downsample == "stride"
                layers.append(block(channels_in, channels, 2 if halved else 1))
                channels_in = channels * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.linear = nn.Linear(channels_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer2(self.pool(self.layer1(x)))
        x = self.layer4(self.pool(self.layer3(self.pool(x))))
        return self.linear(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


BLOCKS: dict[str, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
}


def resnet(
    name: str = "resnet18", *, width: int = 64, classes: int = 10, downsample: Downsample = "stride"
) -> ResNet:
    """Build a CIFAR ResNet by name.

    Raises:
        ValueError: an unknown name or `downsample`, or a width that is not positive.
    """
    if name not in BLOCKS:
        raise ValueError(f"architecture: got {name!r}, wanted one of {', '.join(BLOCKS)}")
    if width < 1:
        raise ValueError(f"width: got {width}, wanted at least 1")
    block, blocks = BLOCKS[name]
    return ResNet(block, blocks, width=width, classes=classes, downsample=downsample)


def _shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    if stride == 1 and channels_in == channels_out:
        return nn.Sequential()
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
    )


class WideBlock(nn.Module):
    """Two pre-activation 3×3 convolutions and a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.convShortcut = (
            nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            if channels_in != channels
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(y)
        return shortcut + self.conv2(functional.relu(self.bn2(self.conv1(y))))


class WideStage(nn.Module):
    """Wide blocks; the first may have a stride."""

    def __init__(self, channels_in: int, channels: int, stride: int, blocks: int):
        super().__init__()
        rest = (WideBlock(channels, channels, 1) for _ in range(blocks - 1))
        self.layer = nn.Sequential(WideBlock(channels_in, channels, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNet(nn.Module):
    """A wide ResNet for 32-pixel images (Zagoruyko & Komodakis, arXiv:1605.07146).

    Keys as in RobustBench.

    Args:
        depth: 6k + 4 layers: k blocks per stage, three stages.
        widen: channels of the first stage / 16; doubled in each later one.
        classes: outputs of the last layer, `fc`.
    """

    def __init__(self, *, depth: int = 28, widen: int = 10, classes: int = 10):
        super().__init__()
        if depth < 10 or depth % 6 != 4 or widen < 1:
            raise ValueError(
                f"wide-resnet-{depth}-{widen}: wanted a depth of 10, 16, 22, … and a width of at "
                "least 1"
            )
        width, blocks = 16 * widen, depth // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.block1 = WideStage(16, width, 1, blocks)
        self.block2 = WideStage(width, 2 * width, 2, blocks)
        self.block3 = WideStage(2 * width, 4 * width, 2, blocks)
        self.bn1 = nn.BatchNorm2d(4 * width)
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        x = functional.adaptive_avg_pool2d(functional.relu(self.bn1(x)), 1)
        return self.fc(torch.flatten(x, 1))
