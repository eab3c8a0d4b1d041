"""A classifier as representation + linear head, speaking [0, 1] pixels; and the door to the checkpoints."""

import copy
import difflib
import re
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nbhelpers import checkpoints
from nbhelpers.cut import cut, find
from nbhelpers.resnet import BLOCKS, WideResNet, resnet
from nbhelpers.types import Features, Images, check_images

Precision = Literal["float32", "bfloat16"]


class Model(nn.Module):
    """A frozen classifier and its representation. It normalises by itself: give it pixels in [0, 1].

    The network is traced, batch norm is folded into convolutions, the network is cut at its last linear layer or
    after `layer`, and the last ReLU before the cut can be swapped for a fake one. A network that cannot be traced
    works all the same, through a hook. A first pass over noise checks that logits are the network's own; `repr`
    says what was found.

    Args:
        network: a classifier (n, c, h, w) → (n, classes) that ends in a `torch.nn.Linear`; copied. A softmax
            after that is left out. Other networks have logits, but no head.
        mean, std: of each channel, pixels in [0, 1], as in training.
        classes: class names; their indices where None.
        image_size: side in pixels that the network was trained for; None if any.
        name: for `repr` and results.
        layer: a module's name, whose output is the representation in place of the penultimate layer.
        pool: "mean" over positions or tokens, or "flatten"; for a layer whose output has any.

    Raises:
        ValueError: no linear layer and no `layer`, an unknown layer, or arguments that do not fit the network.
    """

    mean: Tensor
    std: Tensor
    precision: Precision = "float32"  # of passes that a gradient goes back through; all others are float32

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        classes: Sequence[str] | None = None,
        image_size: int | None = None,
        name: str = "",
        layer: str | None = None,
        pool: Literal["mean", "flatten"] = "mean",
    ):
        super().__init__()
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise ValueError(f"mean and std: got {tuple(mean)} and {tuple(std)}, wanted one positive std per channel")
        if pool not in ("mean", "flatten"):
            raise ValueError(f"pool: got {pool!r}, wanted 'mean' or 'flatten'")
        for wrapper in ("module", "_orig_mod"):  # of DataParallel and of torch.compile
            network = getattr(network, wrapper, network)
        network = copy.deepcopy(network).float().eval().requires_grad_(False)
        self.image_size, self.name, self.layer, self._pool = image_size, name or type(network).__name__, layer, pool
        found = find(network, layer, len(mean), image_size)
        self._cut, self.note = cut(network, found)
        if pool == "flatten" and found.features.ndim > 2 and not image_size:
            raise ValueError("pool: 'flatten' fixes the length of the representation; give image_size= too")
        # Square images make square maps: the two equal sides tell (n, c, h, w) from (n, h, w, c).
        sides = found.features.shape[1:]
        self._positions = (1, 2) if len(sides) == 3 and sides[0] == sides[1] != sides[2] else (2, 3)
        self.components = self._pooled(found.features).shape[1]  # length of the representation
        n = found.logits.shape[1]
        self.classes = tuple(classes) if classes else tuple(map(str, range(n)))
        if len(self.classes) != n:
            raise ValueError(f"classes: got {len(self.classes)} names, the network has {n} outputs")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32, device=found.images.device)[:, None, None])
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32, device=found.images.device)[:, None, None])
        self.eval().requires_grad_(False)
        if self.device.type == "cpu":
            self.to(memory_format=torch.channels_last)  # a third faster: oneDNN then reorders nothing

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where images must be."""
        return self.mean.device

    @property
    def head(self) -> nn.Linear:
        """The linear layer that turns the representation into logits.

        Raises:
            ValueError: the representation is another layer's, or the network does not end in a linear layer.
        """
        if self._cut.head is None:
            why = f"is the output of {self.layer!r}; load the model without layer=" if self.layer else f"({self.note})"
            raise ValueError(f"{self.name}: no head: the representation {why}")
        return self._cut.head

    def representation(self, images: Images, fake_relu: bool = True) -> Features:
        """The penultimate layer R(x), or `layer`'s pooled output, (n, components).

        Args:
            images: (n, c, h, w), pixels in [0, 1], on the model's device.
            fake_relu: let gradients through inactive units of the last ReLU; values are the same.

        Raises:
            TypeError, ValueError: images of the wrong kind, shape, range or device.
        """
        return self._pooled(self._passed(self._cut.features, images, fake_relu))

    def forward(self, images: Images) -> Features:
        """Logits, (n, classes)."""
        return self._passed(self._cut.logits, images)

    def _passed(self, f: Callable[..., Tensor], images: Images, *options: bool) -> Tensor:
        x = self._normalised(images)
        if self.precision == "float32" or not (images.requires_grad and torch.is_grad_enabled()):
            return f(x, *options)
        with torch.autocast(self.device.type, torch.bfloat16):
            return f(x, *options).float()

    def _normalised(self, images: Images) -> Tensor:
        if not images.requires_grad:  # the optimiser's own iterates were checked once, and a check would stall a GPU
            check_images(images)
        if images.device != self.device:
            raise ValueError(f"images: on {images.device}, the model is on {self.device}; use images.to(model.device)")
        return (images - self.mean) / self.std

    def _pooled(self, features: Tensor) -> Features:
        if self._pool == "mean" and features.ndim in (3, 4):
            return features.mean(1 if features.ndim == 3 else self._positions)  # 3: (n, tokens, d)
        return features.flatten(1)

    def __repr__(self) -> str:
        where = f" ({self._pool} of {self.layer})" if self.layer else ""
        size = f", {self.image_size} pixels" if self.image_size else ""
        return (
            f"Model({self.name}: {self.components} components{where}, {len(self.classes)} classes{size}; {self.note})"
        )


# Name: bottleneck blocks or not, and how many in each stage.
_RESNETS = {"resnet18": (False, 2, 2, 2, 2), "resnet34": (False, 3, 4, 6, 3), "resnet50": (True, 3, 4, 6, 3)}
_RESNETS |= {"resnet101": (True, 3, 4, 23, 3), "resnet152": (True, 3, 8, 36, 3)}
_FILES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar", ".zip", ".gz", ".json")


def load_model(
    name: str | Path,
    *,
    device: str | torch.device = "auto",
    architecture: str | nn.Module | None = None,
    dataset: str | Mapping[str, Any] | None = None,
    layer: str | None = None,
    pool: Literal["mean", "flatten"] = "mean",
    pretrained: bool = True,
    precision: Literal["float32", "bfloat16", "auto"] = "float32",
) -> Model:
    """Load a classifier by the name of its checkpoint, from a file, or from torchvision or timm.

    Args:
        name: in `checkpoints/manifest.toml`; or a path to a .safetensors, .pt, .pth or .ckpt file, of which no code
            is run; or "torchvision:resnet50", "timm:resnet18" and so on.
        device: auto, cpu, cuda, cuda:1 or mps; auto takes a GPU where there is one.
        architecture: of a file whose keys do not tell: "resnet18" (for CIFAR), "wide-resnet-28-10",
            "torchvision:vgg16_bn", "timm:resnet18", or your own network, which is copied and filled.
        dataset: what the network was trained on, where the file does not tell: a name in the manifest's [datasets],
            or such a table, {"mean": …, "std": …, "classes": …, "image_size": …}, which goes before the file's.
        layer, pool: the representation, see `Model`.
        pretrained: False for random weights, of torchvision and timm.
        precision: of gradient passes. "bfloat16" is up to twice as fast where the processor computes in it, and ends
            as near in float32; what is computed without gradient stays float32. "auto" times both on this machine.

    Raises:
        ValueError: unknown name, damaged file, unknown architecture, normalisation or precision, or a device that is
            not there.
        FileNotFoundError: no such file, or a checkpoint that cannot be downloaded.
        ImportError: timm is wanted and not installed.
    """
    if precision not in ("float32", "bfloat16", "auto"):
        raise ValueError(f"precision: got {precision!r}, wanted 'float32', 'bfloat16' or 'auto'")
    place = pick_device(device)
    if str(name).startswith(("torchvision:", "timm:")):
        network, about = _published(str(name), pretrained)
    else:
        network, about = _stored(name, architecture)
    file = about.pop("file", {})
    named, given = (dataset_facts(dataset), {}) if isinstance(dataset, str) else ({}, dict(dataset or {}))
    about = {key: value for table in (about, named, file, given) for key, value in table.items() if value}
    if not {"mean", "std"} <= set(about) <= {"mean", "std", "classes", "image_size", "name"}:
        raise ValueError(
            f"{name}: need mean and std of its training, know {', '.join(about) or 'nothing'}; give dataset= a name "
            'in the manifest (cifar10, imagenet, …) or {"mean": (…), "std": (…), "classes": …, "image_size": …}'
        )
    if about.get("classes") == ("torchvision",):
        about["classes"] = _imagenet_classes()
    model = Model(network, **{"name": str(name), **about}, layer=layer, pool=pool)
    if place.type != "cpu":
        model = model.to(memory_format=torch.contiguous_format).to(place)
    model.precision = _fastest(model) if precision == "auto" else precision
    return model


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """Turn "auto" into the best device there is.

    Raises:
        ValueError: the device is unknown or not there.
    """
    if device == "auto":
        mps = "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device("cuda" if torch.cuda.is_available() else mps)
    try:
        picked = torch.device(device)
        torch.empty(0, device=picked)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device: got {str(device)!r}, which this machine does not offer; use 'auto' or 'cpu'"
        ) from error
    return picked


def _fastest(model: Model) -> Precision:
    """The precision of the quicker gradient pass over a few grey images; float32 unless bfloat16 is well ahead."""
    size = model.image_size or 32
    images = torch.full((max(1, 2**15 // size**2), len(model.mean), size, size), 0.5, device=model.device)
    times: dict[Precision, list[float]] = {"float32": [], "bfloat16": []}
    for _ in range(4):  # in turn; the first of each is a warm-up
        for precision, seconds in times.items():
            model.precision = precision
            start = time.perf_counter()
            x = images.clone().requires_grad_()
            torch.autograd.grad(model.representation(x).sum(), x)[0].sum().item()  # waits for a GPU
            seconds.append(time.perf_counter() - start)
    return "bfloat16" if min(times["bfloat16"][1:]) < 0.8 * min(times["float32"][1:]) else "float32"


def _stored(name: str | Path, architecture: str | nn.Module | None) -> tuple[nn.Module, dict[str, Any]]:
    """A filled network and what is known of it; under "file" the normalisation that stood beside the weights."""
    known = checkpoints.manifest()
    foreign = str(name) not in known and (Path(name).suffix in _FILES or Path(name).expanduser().is_file())
    weights = checkpoints.read_weights(Path(name).expanduser() if foreign else checkpoints.fetch(str(name)))
    entry = weights.entry if foreign else known[str(name)]
    if foreign and entry is None:
        print(weights.report)
    arguments: dict[str, Any] = {}
    if architecture is None and entry is not None:
        architecture, arguments = entry.architecture, dict(entry.arguments)
    elif architecture is None:
        architecture, arguments = _recognised(weights.state)
    if isinstance(architecture, nn.Module):
        network, kind = copy.deepcopy(architecture), type(architecture).__name__
    else:
        heads = [tensor for key, tensor in weights.state.items() if key.endswith("weight") and tensor.ndim == 2]
        if not heads:
            raise ValueError(f"{name}: no weight of a linear layer in it; is it a classifier?")
        network, kind = build_network(architecture, len(heads[-1]), arguments), architecture
    _fill(network, weights.state, f"{name} into {kind}")
    about = {key: getattr(entry, key, None) for key in ("mean", "std", "classes", "image_size")}
    if foreign:
        about["name"] = Path(name).stem
    return network, {**about, "file": {"mean": weights.mean, "std": weights.std}}


def _published(name: str, pretrained: bool) -> tuple[nn.Module, dict[str, Any]]:
    """A network of torchvision or timm, and what the library knows of its training."""
    if name.startswith("timm:"):
        network = build_network(name, None, {"pretrained": pretrained})
        config: Any = network.pretrained_cfg
        about = {key: config.get(key) for key in ("mean", "std")} | {"image_size": config["input_size"][-1]}
        return network, about | {"classes": ("torchvision",) if config["num_classes"] == 1000 else None}
    import torchvision.models  # here and below, as it takes seconds

    network = build_network(name, None, {})
    weights = torchvision.models.get_model_weights(name.partition(":")[2]).DEFAULT
    if pretrained:
        network.load_state_dict(weights.get_state_dict(progress=True, check_hash=True, weights_only=True))
    transforms = weights.transforms()
    about = {"mean": transforms.mean, "std": transforms.std, "image_size": transforms.crop_size[0]}
    return network, about | {"classes": weights.meta["categories"]}


def build_network(architecture: str, classes: int | None, arguments: dict[str, Any]) -> nn.Module:
    """A network by its architecture's name, with random weights.

    Args:
        architecture: "resnet18" (for CIFAR), "wide-resnet-28-10", "torchvision:NAME", "timm:NAME".
        classes: outputs; None for the architecture's own.
        arguments: what it takes besides.

    Raises:
        ValueError: an unknown name.
        ImportError: timm is wanted and not installed.
    """
    source, _, name = architecture.rpartition(":")
    if classes:
        arguments = {**arguments, "num_classes" if source else "classes": classes}
    if source == "timm":
        try:
            import timm
        except ImportError as error:
            raise ImportError(f"{architecture} needs timm: uv pip install timm") from error
        if name.split(".")[0] not in timm.list_models():
            raise ValueError(f"architecture: {_near(architecture, [f'timm:{n}' for n in timm.list_models()])}")
        return timm.create_model(name, **arguments)
    if source == "torchvision":
        import torchvision.models

        if name not in torchvision.models.list_models(torchvision.models):
            names = [f"torchvision:{n}" for n in torchvision.models.list_models(torchvision.models)]
            raise ValueError(f"architecture: {_near(architecture, names)}")
        return torchvision.models.get_model(name, weights=None, **arguments)
    if match := re.fullmatch(r"wide-resnet-(\d+)-(\d+)", architecture):
        return WideResNet(depth=int(match[1]), widen=int(match[2]), **arguments)
    if name not in BLOCKS or source:
        names = [*BLOCKS, "wide-resnet-28-10", "torchvision:…", "timm:…"]
        raise ValueError(f"architecture: {_near(architecture, names)}")
    return resnet(name, **arguments)


def _recognised(state: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]]:
    """The architecture of a CIFAR ResNet, a wide ResNet or a torchvision ResNet by the keys and shapes of its state."""
    first = state["conv1.weight"].shape if "conv1.weight" in state else (0, 0, 0, 0)
    parts = [[key.split(".") for key in state if key.startswith(f"layer{i}.")] for i in range(1, 5)]
    blocks = [len({part[1] for part in stage}) for stage in parts]
    bottleneck = "layer1.0.conv3.weight" in state
    for name, shape in _RESNETS.items():
        if (bottleneck, *blocks) != shape:
            continue
        if name in BLOCKS and first[-1] == 3 and "linear.weight" in state:
            return name, {"width": first[0]}
        if first[-1] == 7 and "fc.weight" in state:
            middle = state["layer1.0.conv2.weight"].shape  # (groups · width per group, width per group, 3, 3)
            wide = {"groups": middle[0] // middle[1], "width_per_group": middle[1]} if bottleneck else {}
            return f"torchvision:{name}", wide
    if "block1.layer.0.conv1.weight" in state and "fc.weight" in state:
        depth = 6 * len({key.split(".")[2] for key in state if key.startswith("block1.layer.")}) + 4
        return f"wide-resnet-{depth}-{len(state['block1.layer.0.conv1.weight']) // 16}", {}
    raise ValueError(
        f"cannot tell the architecture from its keys ({', '.join(list(state)[:3])}, …); give architecture="
        '"torchvision:NAME", "timm:NAME", "resnet18" (for CIFAR), "wide-resnet-28-10" or your own network'
    )


def _fill(network: nn.Module, state: dict[str, Tensor], what: str) -> None:
    # TRADES' wide ResNets carry a block that no pass uses; old files lack the counters, which only training uses.
    state = {key: tensor for key, tensor in state.items() if not key.startswith("sub_block1.")}
    try:
        missing, extra = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{what}: {'; '.join(line.strip() for line in str(error).splitlines()[1:4])}") from None
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or extra:
        raise ValueError(
            f"{what}: keys do not fit; missing {missing[:3]} of {len(missing)}, left over {extra[:3]} of {len(extra)}; "
            "give architecture="
        )


def dataset_facts(name: str) -> dict[str, Any]:
    """Mean, std, classes and image size of a data set, as the manifest's [datasets] has them.

    Raises:
        ValueError: an unknown name.
    """
    tables = tomllib.loads((checkpoints.CHECKPOINTS / "manifest.toml").read_text(encoding="utf-8"))["datasets"]
    if name not in tables:
        raise ValueError(f"dataset: {_near(name, tables)}")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in tables[name].items()}


def _imagenet_classes() -> tuple[str, ...]:
    import torchvision.models

    return tuple(torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"])


def _near(given: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(given, list(names), n=4, cutoff=0.4) or list(names)[:6]
    return f"got {given!r}, wanted for instance {', '.join(near)}"
