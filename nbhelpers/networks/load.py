"""Networks by the name of their checkpoint, from a file, or from torchvision and timm."""

import copy
import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nbhelpers.checkpoints.fetch import fetch
from nbhelpers.checkpoints.manifest import dataset_facts, manifest
from nbhelpers.checkpoints.read import read_weights
from nbhelpers.model import Model, best_precision, pick_device
from nbhelpers.networks.resnet import BLOCKS, WideResNet, resnet

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
            or such a table, {"mean": …, "std": …, "classes": …, "image_size": …}, which overrides the file's.
        layer, pool: the representation, see `Model`.
        pretrained: False for random weights, of torchvision and timm.
        precision: of gradient passes. "bfloat16" is up to twice as fast where the processor computes in it, and ends
            as near in float32; what is computed without gradient stays float32. "auto" takes it where the processor
            does.

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
    model.precision = best_precision(place) if precision == "auto" else precision
    return model


def _stored(name: str | Path, architecture: str | nn.Module | None) -> tuple[nn.Module, dict[str, Any]]:
    """A filled network and what is known of it; under "file" the normalisation that stood beside the weights."""
    known = manifest()
    foreign = str(name) not in known and (Path(name).suffix in _FILES or Path(name).expanduser().is_file())
    weights = read_weights(Path(name).expanduser() if foreign else fetch(str(name)))
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


def _imagenet_classes() -> tuple[str, ...]:
    import torchvision.models

    return tuple(torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"])


def _near(given: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(given, list(names), n=4, cutoff=0.4) or list(names)[:6]
    return f"got {given!r}, wanted for instance {', '.join(near)}"
