"""The shipped networks reproduce the README's claims."""

import pytest
import torch

import nbhelpers as nb


@pytest.fixture(scope="module")
def networks() -> dict[str, nb.Model]:
    return {name: nb.load_model(f"cifar10-{name}", device="cpu") for name in ("l2-0.5", "standard")}


def test_a_stranger_recognises_what_the_robust_network_drew(networks) -> None:
    images, labels = nb.load_images("cifar10-sample", indices=range(32))
    seen = {}
    for name, other in (("l2-0.5", "standard"), ("standard", "l2-0.5")):
        network = networks[name]
        goal, start = nb.match(network.representation(images)), nb.noise(32, seed=0)
        found = nb.minimize(network.representation, goal, start, steps=100)
        seen[name] = (nb.predict(networks[other], found.images) == labels).float().mean()
        assert found.loss.mean() <= 0.10
    assert seen["l2-0.5"] >= 0.5
    assert seen["l2-0.5"] >= seen["standard"] + 0.25


def test_the_standard_network_has_brittle_pairs_and_the_robust_one_resists(networks) -> None:
    images, labels = nb.load_images(
        "cifar10-sample", indices=nb.random_indices("cifar10-sample", 32, seed=0)
    )
    targets = images[nb.random_partners(labels, seed=0)]
    reached = {}
    for name, network in networks.items():
        goal, ball = nb.match(network.representation(targets)), nb.l2_ball(images, 1.0)
        found = nb.minimize(
            network.representation,
            goal,
            images,
            steps=100,
            solver=nb.Solver(step_size=0.05),
            project=ball,
        )
        assert torch.linalg.vector_norm((found.images - images).flatten(1), dim=1).max() <= 1 + 1e-4
        reached[name] = found.loss.median()
    assert reached["l2-0.5"] >= 5 * reached["standard"]
