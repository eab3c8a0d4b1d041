"""Inputs of any numeric type and precision; inference mode and default dtype."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import nbhelpers as nb
from nbhelpers.attack import fooled
from nbhelpers.objectives import margin
from nbhelpers.runs.shards import Settings
from nbhelpers.training import Training

MANY = [
    [3, 1],
    (3, 1),
    np.array([3, 1], dtype=np.uint8),
    torch.tensor([3, 1], dtype=torch.int16),
    [np.int64(3), 1],
]
ONE = [3, np.int32(3), np.array(3), torch.tensor(3)]


@pytest.fixture
def images():
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("components", MANY)
def test_components_of_any_kind(tiny_model, images, components):
    top = nb.top_images(tiny_model, images, components, k=np.int64(2))
    wanted = nb.top_images(tiny_model, images, [3, 1], k=2)
    assert top.highest.shape == (2, 2) and torch.equal(top.highest, wanted.highest)
    features = tiny_model.representation(images[:2])
    assert torch.equal(nb.activate(components)(features), nb.activate([3, 1])(features))


@pytest.mark.parametrize("component", ONE)
def test_one_component_of_any_kind(tiny_model, images, component):
    assert nb.top_images(tiny_model, images, component, k=2).highest.shape == (2,)
    assert nb.activate(component, ceiling=np.float32(1))(
        tiny_model.representation(images)
    ).shape == (6,)


@pytest.mark.parametrize(
    ("component", "error"),
    [
        ([], ValueError),
        (3.0, TypeError),
        ([0.5], TypeError),
        ("3", TypeError),
        ([[1]], ValueError),
        (True, TypeError),
        (np.array([True, False]), TypeError),
        (torch.tensor([1.0]), TypeError),
        (None, TypeError),
        ([-1], IndexError),
    ],
)
def test_what_is_no_component_gets_one_clear_line(tiny_model, images, component, error):
    with pytest.raises(error, match=r"component: got .*wanted"):
        nb.top_images(tiny_model, images, component)


@pytest.mark.parametrize("seed", [5, np.int64(5), np.array(5), torch.tensor(5)])
def test_seeds_of_any_kind(tiny_model, images, seed):
    assert torch.equal(
        nb.noise(np.int64(2), size=np.int32(8), seed=seed), nb.noise(2, size=8, seed=5)
    )
    assert nb.random_indices("cifar10-sample", np.int64(3), seed=seed) == nb.random_indices(
        "cifar10-sample", 3, seed=5
    )
    assert torch.equal(
        nb.random_partners([0, 1, 0, 1], seed=seed),
        nb.random_partners(torch.tensor([0, 1, 0, 1]), seed=5),
    )
    labels = np.zeros(6, dtype=np.int32)
    found = fooled(tiny_model, images, labels, np.float32(0.1), steps=np.int64(1), seed=seed)
    assert torch.equal(
        found, fooled(tiny_model, images, torch.zeros(6, dtype=torch.long), 0.1, steps=1, seed=5)
    )


@pytest.mark.parametrize(
    "act",
    [lambda: nb.noise(1, seed=1.5), lambda: nb.noise(1.0), lambda: nb.noise(1, size=(1, 2, 3))],
)
def test_what_is_no_whole_number_gets_one_clear_line(act):
    with pytest.raises((TypeError, ValueError), match=r"(seed|n|size): got .*, wanted"):
        act()


@pytest.mark.parametrize(
    "labels", [[0, 1], np.array([0, 1], dtype=np.int32), torch.tensor([0, 1], dtype=torch.uint8)]
)
def test_labels_of_any_kind(tiny_model, images, labels):
    logits = tiny_model(images[:2])
    wanted = torch.tensor([0, 1])
    for objective in (nb.misclassify, margin):
        assert torch.equal(objective(labels)(logits), objective(wanted)(logits))
    added = nb.contributions(tiny_model, images[:2], labels)
    assert torch.equal(added, nb.contributions(tiny_model, images[:2], wanted))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_images_of_any_precision(tiny_model, images, dtype):
    given = images.to(dtype)
    torch.testing.assert_close(tiny_model(given), tiny_model(given.float()))
    goal = nb.match(tiny_model.representation(images[:3]).numpy().astype("float64"))
    result = nb.minimize(
        tiny_model.representation,
        goal,
        given[3:],
        steps=12,
        batch_size=2,
        solver=nb.Solver(stop_below=0.0),
    )
    assert result.images.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (result.losses[-1] < result.losses[0]).all()


def test_factors_of_any_kind(tiny_model, images):
    goal = nb.match(tiny_model.representation(images[:1]))
    for one in (np.float32, np.float64, torch.tensor):
        ball = nb.l2_ball(images[1:2], one(0.5)), nb.linf_ball(images[1:2], one(0.5))
        for project in ball:
            options = {"steps": np.int64(2), "project": project}
            options["solver"] = nb.Solver(step_size=one(0.1), momentum=one(0.5))
            result = nb.minimize(tiny_model.representation, goal, images[1:2], **options)
            assert isinstance(result.images, torch.Tensor) and result.images.dtype == torch.float32


def test_inference_mode_changes_nothing(images):
    from nbhelpers.networks.resnets import resnet

    def run():
        torch.manual_seed(0)
        model = nb.Model(resnet("resnet18", width=4))
        target = model.representation(images[:2])
        start = nb.noise(2)
        ends = [
            nb.minimize(model.representation, goal, start, steps=3).loss
            for goal in (
                nb.match(target),
                nb.leave(target),
                nb.activate(torch.tensor([1, 2]), ceiling=torch.tensor([9.0, 9.0])),
            )
        ]
        ends.append(nb.minimize(model, nb.misclassify(torch.tensor([1, 2])), start, steps=3).loss)
        return torch.stack(ends)  # fmt: skip

    wanted = run()
    with torch.inference_mode():
        found = run()
    assert torch.equal(wanted, found)
    with torch.no_grad():
        assert torch.equal(wanted, run())


def test_the_default_dtype_changes_nothing():
    wanted = nb.load_images("cifar10-sample", indices=[0])[0], nb.noise(1)
    torch.set_default_dtype(torch.float64)
    try:
        found = nb.load_images("cifar10-sample", indices=[0])[0], nb.noise(1)
        resized = nb.load_images("cifar10-sample", indices=[0], size=16)[0]
        model = nb.load_model("cifar10-standard", device="cpu")
        goal = nb.match(model.representation(found[0]))
        assert (
            nb.minimize(model.representation, goal, found[1], steps=1).images.dtype == torch.float32
        )
    finally:
        torch.set_default_dtype(torch.float32)
    assert resized.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))


def test_partners_of_many_labels_are_of_other_classes():
    labels = torch.arange(5000) % 7  # more than one block of rows
    partners = nb.random_partners(labels)
    assert (labels[partners] != labels).all() and len(partners.unique()) > 2500


def test_settings_of_any_kind_are_kept_as_python_s():
    numbers = {"seed": np.int64(3), "batch_size": torch.tensor(4)}
    for settings in (
        Training(**numbers, eps=np.float64(0.5), image_size=np.array([32, 16])),
        Settings("invert", "cifar10-standard", **numbers, step_size=np.float64(0.5)),
    ):
        kept = dataclasses.asdict(settings)
        assert json.loads(json.dumps(kept)) == {
            k: list(v) if isinstance(v, tuple) else v for k, v in kept.items()
        }
        assert settings.seed == 3 and settings.batch_size == 4
