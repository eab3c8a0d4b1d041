"""Networks by the name of their checkpoint, from a file, or from torchvision and timm."""

import contextlib
import re
import sys
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import torch
from torch import Tensor, nn

from nbhelpers.checkpoints.downloads import fetch, fetch_library
from nbhelpers.checkpoints.entries import dataset_facts, imagenet_classes, manifest
from nbhelpers.checkpoints.readers import Weights, choose_prefix, is_scale, read_weights
from nbhelpers.names import near
from nbhelpers.networks.model import Model, Precision
from nbhelpers.networks.normalising import normalises
from nbhelpers.networks.resnets import BLOCKS, WideResNet, resnet
from nbhelpers.networks.sites import copied
from nbhelpers.types import Size, pick_device, square, two_sides

# Name: bottleneck blocks or not, and how many in each stage.
_RESNETS = {
    "resnet18": (False, 2, 2, 2, 2),
    "resnet34": (False, 3, 4, 6, 3),
    "resnet50": (True, 3, 4, 6, 3),
}
_RESNETS |= {"resnet101": (True, 3, 4, 23, 3), "resnet152": (True, 3, 8, 36, 3)}
# torchvision's DenseNets were published with "norm.1" instead of "norm1".
_DENSE = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
# Heads that only training uses, which files may lack.
_FURTHER_HEADS = {
    "torchvision:googlenet": ("aux1.", "aux2."),
    "torchvision:inception_v3": ("AuxLogits.",),
}
_SIDES = (224, 384, 512, 448, 256, 288, 320, 336, 518, 560, 192, 160, 128, 96, 64, 32)
_PROBE = 1009  # outputs of a probe network; no other layer has this length
_FILLING = threading.Lock()
_FILES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar")


@torch.inference_mode(False)  # weights made in inference mode cannot take part in a gradient
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
        name: an entry of `checkpoints/manifest.toml`; a path to a .safetensors, .pt, .pth or .ckpt
            file; "torchvision:resnet50", "timm:resnet18" and so on. Pickled code is never executed.
            "run.pth#state_dict_ema" selects one of several state dicts in a file.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps"; "auto" takes a GPU if there is one.
        architecture: needed if the file's keys do not identify it: "resnet18" (for CIFAR),
            "wide-resnet-28-10", "torchvision:vgg16_bn", "timm:resnet18", or your own network, which
            is copied and filled.
        dataset: the training data, needed if the file does not name it: an entry of the manifest's
            [datasets], or a table {"mean": …, "std": …, "classes": …, "image_size": …}, which
            overrides the file's values. A network with its own normalisation gets raw pixels.
        layer, pool: the representation, see `Model`.
        pretrained: False for random weights (torchvision and timm only).
        precision: of gradient passes. "bfloat16" is up to twice as fast on processors that support
            it; passes without gradient stay float32. "auto" takes it if the processor supports it.

    Raises:
        ValueError: unknown name, architecture, normalisation or precision; damaged file; missing
            device.
        FileNotFoundError: no such file, or a failed download.
        ImportError: timm is not installed.
    """
    if precision not in ("float32", "bfloat16", "auto"):
        raise ValueError(f"precision: got {precision!r}, wanted 'float32', 'bfloat16' or 'auto'")
    place = pick_device(device)
    sides: Any = dataset.get("image_size") if isinstance(dataset, Mapping) else None
    size = square(two_sides(sides, "image_size")) if _given(sides) else None
    if str(name).startswith(("torchvision:", "timm:")):
        network, about = _published(str(name), pretrained, size)
    else:
        network, about = _stored(name, architecture, size)
    file = about.pop("file", {})
    named, given = (
        (dataset_facts(dataset), {}) if isinstance(dataset, str) else ({}, dict(dataset or {}))
    )
    own = about.pop("own", {})
    tables = (about, named, file, given)  # later ones override earlier ones
    about = {k: v for table in tables for k, v in table.items() if _given(v)} | own
    if not {"mean", "std"} <= set(about) <= {"mean", "std", "classes", "image_size", "name"}:
        raise ValueError(
            f"{name}: need mean and std of its training, know {', '.join(about) or 'nothing'}; "
            "give dataset= a name in the manifest (cifar10, imagenet, …) or "
            '{"mean": (…), "std": (…), "classes": …, "image_size": …}'
        )
    if about.get("classes") == ("torchvision",):
        about["classes"] = imagenet_classes()
    model = Model(network, **{"name": str(name), **about}, layer=layer, pool=pool)
    if place.type != "cpu":
        model = model.to(memory_format=torch.contiguous_format).to(place)
    model.precision = best_precision(place) if precision == "auto" else precision
    return model


def _given(value: Any) -> bool:
    # A length, as the truth of an array is not defined.
    return bool(len(value) if hasattr(value, "__len__") else value)


def _stored(
    name: str | Path, architecture: str | nn.Module | None, size: Size | None
) -> tuple[nn.Module, dict[str, Any]]:
    """A filled network and the facts about it; "file" is the normalisation found in the file."""
    known = manifest()
    plain, _, inside = str(name).partition("#")
    if not inside or Path(name).expanduser().is_file():
        plain, inside = str(name), ""
    foreign = plain not in known and (
        Path(plain).suffix in _FILES or Path(plain).expanduser().is_file()
    )
    weights = read_weights(Path(plain).expanduser() if foreign else fetch(plain), inside)
    entry = weights.entry if foreign else known[plain]
    if foreign and entry is None:
        print(weights.report)
    arguments: dict[str, Any] = {}
    sides: Size | None = None  # inferred from the weights' shapes
    if architecture is None and entry is not None:
        architecture, arguments = entry.architecture, dict(entry.arguments)
    elif architecture is None:
        architecture, arguments = _recognised(choose_prefix(weights.state)[0])
    if isinstance(architecture, nn.Module):
        network, kind = copied(architecture), type(architecture).__name__
        state = _fitting(weights, network, f"{name} into {kind}")
    else:
        kind = architecture
        state, count, arguments, sides = _head(
            weights, architecture, arguments, size, f"{name} into {kind}"
        )
        network = build_network(architecture, count, arguments)
    _fill(network, _versioned(state, weights.versions, network), f"{name} into {kind}")
    about = {key: getattr(entry, key, None) for key in ("mean", "std", "classes", "image_size")}
    if foreign:
        about["name"] = Path(plain).stem
    scales = {"mean": weights.mean, "std": weights.std}
    own = network.state_dict()
    if any(key == one or key.endswith(f".{one}") for key in weights.scales for one in own):
        about |= {key: scale for key, scale in scales.items() if scale}  # the network's own numbers
        scales = {}  # the user's values override these
    about["file"] = {**scales, "image_size": sides}
    if normalises(network, sides or size or about["image_size"]):  # and once is enough
        about["own"] = {"mean": None, "std": None}
        print(f"{name}: {kind} normalises by itself, so it is given pixels as they are")
    return network, about


def _fitting(weights: Weights, network: nn.Module, what: str) -> dict[str, Tensor]:
    """The weights under the network's own keys, without wrappers' prefixes and foreign entries."""
    wanted = network.state_dict()
    needed = [key for key in wanted if _needed(key) and not is_scale(key)]
    try:
        state, aside = choose_prefix(weights.state, needed)
        # Keys of an older version, or a submodule named like a wrapper, `model` or `module`.
        for other in (_present_keys, lambda *_: weights.raw):
            if not {*needed} <= state.keys():
                found, left = choose_prefix(other(weights, network), needed)
                state, aside = (found, left) if {*needed} <= found.keys() else (state, aside)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    for key, scale in weights.scales.items():  # of the network's own normaliser
        own = [
            one
            for one in wanted
            if (key == one or key.endswith(f".{one}")) and wanted[one].numel() == scale.numel()
        ]
        state |= {one: scale.reshape(wanted[one].shape) for one in own[:1]}
    if aside:
        print(f"{what}: set aside {', '.join(aside[:8])}{', …' if len(aside) > 8 else ''}")
    return state


def _present_keys(weights: Weights, network: nn.Module) -> dict[str, Tensor]:
    """A library's weights, with keys of older versions renamed."""
    wanted = network.state_dict()
    found = {_DENSE.sub(r"\1\2", key): tensor for key, tensor in weights.state.items()}
    library = sys.modules.get(type(network).__module__)
    rename = getattr(library, "checkpoint_filter_fn", None)
    if rename is None or not wanted.keys() - found.keys():
        return found
    try:  # timm's own, which also resizes what depends on the image's size
        other = rename(dict(found), network)
    except Exception:  # not one of the layouts that it knows
        return found
    return dict(other) if len(other.keys() & wanted.keys()) > len(found.keys() & wanted) else found


def _head(
    weights: Weights, architecture: str, arguments: dict[str, Any], size: Size | None, what: str
) -> tuple[dict[str, Tensor], int | None, dict[str, Any], Size | None]:
    """The weights under an architecture's keys, their number of classes, the builder's arguments,
    and the image size if it is not the builder's default.
    """
    heads = _FURTHER_HEADS.get(architecture, ())
    if heads and not any(part in f".{key}" for key in weights.state for part in heads):
        arguments = {**arguments, "aux_logits": False}
    network = _probed(architecture, arguments)
    state, sides = _fitting(weights, network, what), None
    if not _same_shapes(state, network):
        for side in (*([size] if size else []), *_SIDES):
            if found := _sized(architecture, arguments, side, state):
                arguments, sides = found
                break
    elif size and (found := _sized(architecture, arguments, size, state)):
        arguments = found[0]
    found_heads = [
        k
        for k, t in network.state_dict().items()
        if t.ndim and len(t) == _PROBE and k in state and state[k].ndim
    ]
    return state, len(state[found_heads[0]]) if found_heads else None, arguments, sides


def _probed(architecture: str, arguments: dict[str, Any]) -> nn.Module:
    """A network without data, whose head is recognised by its length."""
    try:
        with torch.device("meta"):
            return build_network(architecture, _PROBE, arguments)
    except (ValueError, ImportError):
        raise
    except Exception:  # some networks compute during construction
        return build_network(architecture, _PROBE, arguments)


def _same_shapes(state: Mapping[str, Tensor], network: nn.Module) -> bool:
    """Whether all shapes but the head's agree."""
    return all(
        state[key].shape == tensor.shape or len(tensor) == _PROBE
        for key, tensor in network.state_dict().items()
        if key in state and tensor.ndim
    )


def _sized(
    architecture: str, arguments: dict[str, Any], size: Size, state: Mapping[str, Tensor]
) -> tuple[dict[str, Any], Size] | None:
    """The arguments for this image size, if the weights fit."""
    for more in size_arguments(architecture, *two_sides(size)):
        with contextlib.suppress(Exception):  # unsupported size
            if _same_shapes(state, _probed(architecture, {**arguments, **more})):
                return {**arguments, **more}, size
    return None


def size_arguments(architecture: str, height: int, width: int) -> Iterator[dict[str, Any]]:
    """The libraries' arguments for the image size, to be tried in order."""
    if architecture.startswith("torchvision:"):
        if height == width:
            yield {"image_size": height}
        yield {"input_size": (height, width)}
    if architecture.startswith("timm:"):
        yield {"img_size": (height, width)}


def _published(name: str, pretrained: bool, size: Size | None) -> tuple[nn.Module, dict[str, Any]]:
    """A network of torchvision or timm, and the library's facts about its training."""
    if name.startswith("timm:"):
        sized = [] if size is None else [*size_arguments(name, *two_sides(size))]
        for more in (*sized, {}):
            try:
                network = build_network(name, None, {"pretrained": pretrained, **more})
                break
            except TypeError:  # it takes images of any size
                if not more:
                    raise
        config: Any = network.pretrained_cfg
        about = {key: config.get(key) for key in ("mean", "std")} | {
            "image_size": tuple(config["input_size"][1:])
        }
        return network, about | {
            "classes": ("torchvision",) if config["num_classes"] == 1000 else None
        }
    import torchvision.models  # here and below: the import takes seconds

    kind = name.partition(":")[2]
    network = build_network(name, None, {})  # checks the name
    weights = torchvision.models.get_model_weights(kind).DEFAULT
    if pretrained:
        network = _torchvision_filled(kind, weights, network)
    transforms = weights.transforms()
    about = {"mean": transforms.mean, "std": transforms.std, "image_size": transforms.crop_size[0]}
    return network, about | {"classes": weights.meta["categories"]}


def _torchvision_filled(kind: str, weights: Any, like: nn.Module) -> nn.Module:
    """A torchvision network, filled by its own builder from a fetched file.

    The builder renames old keys and sets options of these weights, such as `transform_input`.
    """
    import torchvision.models
    from torchvision.models import WeightsEnum

    state = torch.load(fetch_library(weights.url), map_location="cpu", weights_only=True)
    for key in [key for key in state if _DENSE.search(key)]:
        state[_DENSE.sub(r"\1\2", key)] = state.pop(key)
    state = state if hasattr(state, "_metadata") else _versioned(state, {}, like)
    mine, download = threading.get_ident(), WeightsEnum.get_state_dict

    def given(enum: WeightsEnum, *args: Any, **options: Any) -> Mapping[str, Any]:
        return state if threading.get_ident() == mine else download(enum, *args, **options)

    with _FILLING, mock.patch.object(WeightsEnum, "get_state_dict", given):
        known = weights if isinstance(weights, WeightsEnum) else "DEFAULT"
        return torchvision.models.get_model(kind, weights=known)


def best_precision(device: torch.device) -> Precision:
    """bfloat16 if the device supports it natively, else float32."""
    native = {
        "cuda": lambda: torch.cuda.is_bf16_supported(),
        "cpu": torch.cpu._is_avx512_bf16_supported,
    }
    return "bfloat16" if native.get(device.type, lambda: False)() else "float32"


def build_network(architecture: str, classes: int | None, arguments: dict[str, Any]) -> nn.Module:
    """A network by its architecture's name, with random weights.

    Args:
        architecture: "resnet18" (for CIFAR), "wide-resnet-28-10", "torchvision:NAME", "timm:NAME".
        classes: outputs; None for the architecture's own.
        arguments: further arguments of the builder.

    Raises:
        ValueError: an unknown name.
        ImportError: timm is not installed.
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
            raise ValueError(
                f"architecture: {_near(architecture, [f'timm:{n}' for n in timm.list_models()])}"
            )
        return timm.create_model(name, **arguments)
    if source == "torchvision":
        import torchvision.models

        if name not in torchvision.models.list_models(torchvision.models):
            names = [f"torchvision:{n}" for n in torchvision.models.list_models(torchvision.models)]
            raise ValueError(f"architecture: {_near(architecture, names)}")
        with warnings.catch_warnings():  # about future initial weights of GoogLeNet
            warnings.simplefilter("ignore", FutureWarning)
            return torchvision.models.get_model(name, weights=None, **arguments)
    if match := re.fullmatch(r"wide-resnet-(\d+)-(\d+)", architecture):
        return WideResNet(depth=int(match[1]), widen=int(match[2]), **arguments)
    if name not in BLOCKS or source:
        names = [*BLOCKS, "wide-resnet-28-10", "torchvision:…", "timm:…"]
        raise ValueError(f"architecture: {_near(architecture, names)}")
    return resnet(name, **arguments)


def _recognised(state: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]]:
    """The architecture of a CIFAR, wide or torchvision ResNet, by keys and shapes."""
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
            # (groups · width per group, width per group, 3, 3)
            middle = state["layer1.0.conv2.weight"].shape
            wide = (
                {"groups": middle[0] // middle[1], "width_per_group": middle[1]}
                if bottleneck
                else {}
            )
            return f"torchvision:{name}", wide
    if "block1.layer.0.conv1.weight" in state and "fc.weight" in state:
        depth = 6 * len({key.split(".")[2] for key in state if key.startswith("block1.layer.")}) + 4
        return f"wide-resnet-{depth}-{len(state['block1.layer.0.conv1.weight']) // 16}", {}
    raise ValueError(
        f"cannot recognise the architecture from its keys ({', '.join(list(state)[:3])}, …); give "
        'architecture="torchvision:NAME", "timm:NAME", "resnet18" (for CIFAR), "wide-resnet-28-10" '
        "or your own network"
    )


def _versioned(
    state: Mapping[str, Tensor], found: Mapping[str, int], network: nn.Module
) -> dict[str, Tensor]:
    """The state with the layout versions by which modules read older files.

    Without versions in the file: the modules' own, or none if the keys differ from theirs.
    """
    modules = {name: getattr(module, "_version", None) for name, module in network.named_modules()}
    named = ((key, name) for key in found for name in modules if name)
    inner = next(((k, n) for k, n in named if k == n or k.endswith(f".{n}")), ("", ""))
    prefix = inner[0].removesuffix(inner[1])
    if found:
        modules = {name: found.get(f"{prefix}{name}".removesuffix(".")) for name in modules}
    elif any(key not in state and _needed(key) for key in network.state_dict()):
        modules = {}  # without a version, modules assume their oldest layout
    versioned = OrderedDict(state)
    notes = {name: {"version": version} for name, version in modules.items() if version is not None}
    versioned._metadata = notes  # type: ignore[attr-defined]  # where torch looks for them
    return versioned


def _needed(key: str) -> bool:
    return not key.endswith("num_batches_tracked")  # used in training only; old files lack it


def _fill(network: nn.Module, state: dict[str, Tensor], what: str) -> None:
    try:
        missing, extra = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(
            f"{what}: {'; '.join(line.strip() for line in str(error).splitlines()[1:4])}"
        ) from None
    missing = [key for key in missing if _needed(key)]
    passing = {
        key for key, _ in network.named_buffers()
    }  # TorchScript also saves non-persistent ones
    extra = [key for key in extra if key not in passing]
    if missing or extra:
        raise ValueError(
            f"{what}: keys do not fit; missing {missing[:3]} of {len(missing)}, left over "
            f"{extra[:3]} of {len(extra)}; give architecture="
        )


def _near(given: str, names: Iterable[str]) -> str:
    return f"got {given!r}, wanted for instance {', '.join(near(given, names) or [*names][:6])}"
