"""Networks of torchvision and timm equal the library's own."""

import functools
import re
import warnings
from unittest import mock

import pytest
import timm
import torch
import torchvision.models as tv
from torch import nn
from torchvision.models._api import WeightsEnum

from nbhelpers.networks import load_model, loading

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def filled(network, size):
    """Running statistics of real passes, so activations do not vanish."""
    network.eval()
    for module in network.modules():
        if hasattr(module, "running_var") and module.running_var is not None:
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


def old_keys(state):
    pattern = re.compile(r"(denselayer\d+\.(?:norm|conv))([12]\.)")
    return {pattern.sub(r"\1.\2", key): tensor for key, tensor in state.items()}


@pytest.mark.parametrize(
    ("kind", "published", "options"),
    [
        ("googlenet", dict, {"init_weights": False}),
        ("densenet121", old_keys, {}),
        ("mnasnet0_5", dict, {}),
        ("shufflenet_v2_x0_5", dict, {}),
        ("squeezenet1_1", dict, {}),
    ],
)
def test_logits_are_torchvision_s(kind, published, options, tmp_path, monkeypatch):
    torch.manual_seed(0)
    state = filled(tv.get_model(kind, weights=None, **options), 64).state_dict()
    torch.save(published(state), tmp_path / "published.pth")
    with mock.patch.object(WeightsEnum, "get_state_dict", lambda *_, **__: state):
        wanted = tv.get_model(kind, weights="DEFAULT").eval()
    monkeypatch.setattr(loading, "fetch_library", lambda url: tmp_path / "published.pth")
    model, images = load_model(f"torchvision:{kind}", device="cpu"), torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        logits = wanted((images - model.mean) / model.std)
    torch.testing.assert_close(model(images), logits, atol=1e-3, rtol=1e-3)
    assert len(model.classes) == 1000 and model.image_size == 224
    assert not hasattr(tv.get_model_weights(kind).DEFAULT, "__dict__") or (
        "get_state_dict" not in vars(tv.get_model_weights(kind).DEFAULT)
    )


@pytest.mark.parametrize("published", [dict, old_keys])
def test_a_file_of_densenet_has_new_or_old_keys(published, tmp_path):
    torch.manual_seed(0)
    network = filled(tv.densenet121(num_classes=5), 64)
    torch.save(published(network.state_dict()), tmp_path / "m.pth")
    model = load_model(
        tmp_path / "m.pth",
        architecture="torchvision:densenet121",
        dataset=IMAGENET | {"image_size": 64},
        device="cpu",
    )
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        logits = network((images - model.mean) / model.std)
    torch.testing.assert_close(model(images), logits, atol=1e-3, rtol=1e-3)


def test_a_file_of_timm_may_have_its_author_s_keys(tmp_path):
    """ConvNeXt in its authors' key layout, which timm renames."""
    torch.manual_seed(0)
    network = timm.create_model("convnext_atto", num_classes=5).eval()
    rules = [
        (r"^stem\.(\d)", r"downsample_layers.0.\1"),
        (r"^stages\.(\d)\.downsample\.(\d)", r"downsample_layers.\1.\2"),
        (r"\.blocks\.", "."),
        (r"conv_dw", "dwconv"),
        (r"mlp\.fc", "pwconv"),
        (r"^head\.norm", "norm"),
        (r"^head\.fc", "head"),
    ]
    state = {}
    for key, tensor in network.state_dict().items():
        for pattern, other in rules:
            key = re.sub(pattern, other, key)
        state[key] = tensor
    torch.save({"model": state}, tmp_path / "m.pth")
    about = IMAGENET | {"image_size": 64}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load_model(
            tmp_path / "m.pth", architecture="timm:convnext_atto", dataset=about, device="cpu"
        )
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        logits = network((images - model.mean) / model.std)
    torch.testing.assert_close(model(images), logits, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("heads", [True, False])
@pytest.mark.parametrize("kind", ["googlenet", "inception_v3"])
def test_a_file_may_lack_the_heads_that_only_training_uses(kind, heads, tmp_path):
    torch.manual_seed(0)
    options = {"num_classes": 5, "init_weights": False}
    network = filled(tv.get_model(kind, weights=None, **options), 96)
    state = network.state_dict()
    parts = ("aux1.", "aux2.", "AuxLogits.")
    kept = {key: tensor for key, tensor in state.items() if heads or not key.startswith(parts)}
    torch.save(kept, tmp_path / "m.pth")
    about = IMAGENET | {"image_size": 96}
    model = load_model(
        tmp_path / "m.pth", architecture=f"torchvision:{kind}", dataset=about, device="cpu"
    )
    images = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        logits = network((images - model.mean) / model.std)
    torch.testing.assert_close(model(images), logits, atol=1e-3, rtol=1e-3)


def vision_transformer(weights=None, **options):
    about = {"patch_size": 32, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 16}
    network = tv.VisionTransformer(**about, **{"image_size": 224, **options}).eval()
    nn.init.normal_(network.heads.head.weight)  # which begins at zero
    if weights is not None:
        network.load_state_dict(weights.get_state_dict())
    return network


@pytest.fixture
def small_transformer(monkeypatch):
    """torchvision's `vit_b_32`, but small."""
    builder = functools.wraps(tv.vit_b_32)(vision_transformer)
    monkeypatch.setitem(tv._api.BUILTIN_MODELS, "vit_b_32", builder)


@pytest.mark.parametrize("said", ["imagenet", IMAGENET, IMAGENET | {"image_size": 384}])
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_file_for_another_size_builds_its_network_for_that(
    library, said, small_transformer, tmp_path
):
    torch.manual_seed(0)
    classes = {"num_classes": 1000 if said == "imagenet" else 5}
    if library == "torchvision":
        name, network = "torchvision:vit_b_32", vision_transformer(image_size=384, **classes)
    else:
        name, network = "timm:test_vit", timm.create_model("test_vit", img_size=384, **classes)
    torch.save(network.eval().state_dict(), tmp_path / "m.pth")
    model = load_model(tmp_path / "m.pth", architecture=name, dataset=said, device="cpu")
    images = torch.rand(2, 3, 384, 384)
    with torch.no_grad():
        logits = network((images - model.mean) / model.std)
    torch.testing.assert_close(model(images), logits, atol=1e-4, rtol=1e-4)
    assert model.image_size == 384


@pytest.mark.parametrize("versions", [True, False])
@pytest.mark.parametrize("by", ["name", "path"])
def test_a_transformer_may_have_the_keys_of_its_publication(
    by, versions, small_transformer, tmp_path, monkeypatch
):
    """As of torchvision 0.12, with its versions or without."""
    torch.manual_seed(0)
    network = vision_transformer()
    state = network.state_dict()
    metadata = {key: {"version": 1} for key in state._metadata}
    rename = {"mlp.0.": "mlp.linear_1.", "mlp.3.": "mlp.linear_2."}
    for new, old in rename.items():
        state = type(state)((key.replace(new, old), tensor) for key, tensor in state.items())
    if versions:
        state._metadata = metadata
    torch.save(state if versions else dict(state), tmp_path / "m.pth")
    monkeypatch.setattr(loading, "fetch_library", lambda url: tmp_path / "m.pth")
    if by == "name":
        model = load_model("torchvision:vit_b_32", device="cpu")
    else:
        model = load_model(
            tmp_path / "m.pth",
            architecture="torchvision:vit_b_32",
            dataset="imagenet",
            device="cpu",
        )
    images = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        logits = network((images - model.mean) / model.std)
    torch.testing.assert_close(model(images), logits, atol=1e-4, rtol=1e-4)


def test_timm_builds_by_name_for_the_size_that_is_given():
    about = IMAGENET | {"image_size": 64}
    for name in ("test_vit", "test_resnet"):
        model = load_model(f"timm:{name}", dataset=about, pretrained=False, device="cpu")
        assert model(torch.rand(1, 3, 64, 64)).shape[0] == 1 and model.image_size == 64
