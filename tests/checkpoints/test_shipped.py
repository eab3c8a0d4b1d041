"""The shipped networks match the manifest: one recipe, reproduced accuracies."""

import functools
import math

import pytest

import nbhelpers as nb
from nbhelpers import checkpoints, files
from nbhelpers.attack import fooled
from nbhelpers.pair.scoring import accuracy, evaluate

SERIES = ("cifar10-standard", "cifar10-l2-0.25", "cifar10-l2-0.5", "cifar10-l2-1.0")
TINY = ("tiny-standard", "tiny-l2-2.0")
N = 250


def spread(percent: float, n: int) -> float:
    """Three standard errors of the difference from an estimate on `N` images, in points."""
    return 3 * math.sqrt(percent * (100 - percent) * (1 / n + 1 / N)) + 0.5


@pytest.mark.parametrize("name", SERIES)
def test_the_manifest_does_not_lie(name):
    said = checkpoints.entry(name).accuracy
    model = nb.load_model(name, device="cpu")
    images, labels = nb.load_images(
        "cifar10-sample", indices=nb.random_indices("cifar10-sample", N, seed=1)
    )
    # a median needs fewer than a share
    few = evaluate(model, images[:100], labels[:100], eps=[0.5], steps=10)
    held = int((~fooled(model, images[100:], labels[100:], 0.5, steps=10)).sum())
    robust = 100 * (few["l2"]["0.5"] + held) / N  # of the first 100, percent is a count
    assert abs(accuracy(model, images, labels) - said["clean"]) <= spread(said["clean"], said["n"])
    # fewer steps
    assert abs(robust - said["l2"]["0.5"]) <= spread(said["l2"]["0.5"], said["n"]) + 1
    assert few["sensitivity"]["0.5"] == pytest.approx(said["sensitivity"]["0.5"], rel=0.25)


def test_only_eps_differs_within_the_series():
    entries = [checkpoints.entry(name) for name in SERIES]
    assert [entry.training["eps"] for entry in entries] == [0, 0.25, 0.5, 1.0]
    recipes = [
        {key: value for key, value in entry.training.items() if key != "eps"} for entry in entries
    ]
    assert all(recipe == recipes[0] for recipe in recipes)
    assert all(entry.arguments == entries[0].arguments for entry in entries)
    assert all((files.CHECKPOINTS / entry.file).stat().st_size < 12_000_000 for entry in entries)


def test_accuracy_falls_and_rises_over_eps_as_published():
    said = {name: checkpoints.entry(name).accuracy for name in SERIES}
    assert max(SERIES, key=lambda name: said[name]["clean"]) == "cifar10-standard"
    for radius in ("0.25", "0.5", "1.0"):
        best = max(SERIES, key=lambda name: said[name]["l2"][radius])
        assert said[best]["l2"][radius] - said[f"cifar10-l2-{radius}"]["l2"][radius] <= 1, (
            radius,
            best,
        )
        assert min(SERIES, key=lambda name: said[name]["l2"][radius]) == "cifar10-standard"


@pytest.mark.parametrize("name", SERIES)
def test_an_independent_attack_agrees(name):
    said = checkpoints.entry(name).accuracy
    confirmed = said["autoattack"]
    assert confirmed["n"] >= 1000
    assert abs(confirmed["accuracy"] - said["l2"][str(confirmed["eps"])]) <= 2


def test_the_64_pixel_networks_are_each_best_where_they_should_be():
    plain, robust = (checkpoints.entry(name).accuracy for name in TINY)
    assert plain["clean"] > robust["clean"] > 40 and robust["l2"]["2.0"] > plain["l2"]["2.0"] + 10
    assert all(
        checkpoints.entry(name).training["dataset"] == "tiny-imagenet-train" for name in TINY
    )
    recipes = [checkpoints.entry(name).training for name in TINY]
    assert all(
        {k for k in recipe if recipe[k] != recipes[0][k]} <= {"eps", "epochs"} for recipe in recipes
    )


def test_the_robust_64_pixel_network_gives_photographs_back():
    images, _ = nb.load_images("photographs", indices=range(0, 49, 8), size=64)
    likeness = {}
    for name in TINY:
        model = nb.load_model(name, device="cpu")
        f = functools.partial(model.representation, positions=True)
        found = nb.minimize(
            f,
            nb.match(f(images)),
            nb.noise(len(images), size=64),
            steps=100,
            solver=nb.Solver(step_size=0.8),
        )
        likeness[name] = nb.ssim(found.images, images).mean().item()
    assert likeness["tiny-l2-2.0"] > 0.35 and likeness["tiny-standard"] < 0.15, likeness
