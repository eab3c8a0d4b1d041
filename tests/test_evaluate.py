"""Accuracy, attack and self-check: figures agree with the manifest and with foolbox, and faults are found."""

import json
import warnings

import pytest
import torch

import nbhelpers as nb
from nbhelpers import checkpoints, evaluate
from nbhelpers.evaluate import accuracy, attack, main, self_check, sensitivity

N = 96


@pytest.fixture(scope="module")
def robust():
    return nb.load_model("cifar10-l2-0.5", device="cpu")


@pytest.fixture(scope="module")
def standard():
    return nb.load_model("cifar10-standard", device="cpu")


@pytest.fixture(scope="module")
def sample():
    return nb.load_images("cifar10-sample", indices=range(N))


def test_our_attack_is_no_weaker_than_foolbox(robust, sample):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import foolbox
    images, labels = sample
    steps, eps = 10, 0.5
    torch.manual_seed(0)
    theirs = foolbox.attacks.L2PGD(rel_stepsize=2.5 / steps, steps=steps)
    fooled = theirs(foolbox.PyTorchModel(robust, bounds=(0, 1)), images, labels, epsilons=eps)[2]
    ours = attack(robust, images, labels, eps, steps=steps)
    assert int(ours.sum()) >= int(fooled.sum()) - 1
    assert 0.25 * N < int(ours.sum()) < 0.55 * N


def test_an_attack_stays_in_its_ball_and_repeats_with_its_seed(robust, sample, monkeypatch):
    images, labels = sample[0][:8], sample[1][:8]
    seen = []
    whole = evaluate.minimize
    watched = {"callback": lambda step: seen.append(step.images)}
    monkeypatch.setattr(evaluate, "minimize", lambda *a, **k: whole(*a, **{**k, **watched}))
    first = attack(robust, images, labels, 0.5, steps=3, seed=1)
    starts = seen[0]
    right = images[nb.predict(robust, images) == labels]
    for step in seen:
        assert (torch.linalg.vector_norm(step - right, dim=(1, 2, 3)) <= 0.5 + 1e-4).all()
        assert step.min() >= 0 and step.max() <= 1
    assert torch.equal(first, attack(robust, images, labels, 0.5, steps=3, seed=1))
    seen.clear()
    attack(robust, images, labels, 0.5, steps=3, seed=2)
    assert not torch.equal(starts, seen[0])


def test_restarts_and_radius_only_make_it_worse(standard, sample):
    images, labels = sample[0][:32], sample[1][:32]
    one = attack(standard, images, labels, 0.1, steps=3)
    assert (attack(standard, images, labels, 0.1, steps=3, restarts=2) >= one).all()
    assert attack(standard, images, labels, 0.5, steps=3).sum() >= one.sum()
    wrong = nb.predict(standard, images) != labels
    assert torch.equal(attack(standard, images, labels, 1e-6, steps=1), wrong)  # these need no attack


def test_the_robust_network_is_less_sensitive(robust, standard, sample):
    images = sample[0][:16]
    relative = []
    for model in (robust, standard):
        moved = sensitivity(model, images, 0.5, steps=5)
        features = nb.represent(model, images)
        assert moved.shape == (16,) and (moved > 0).all()
        assert (sensitivity(model, images, 0.05, steps=5) < moved).all()
        relative.append(
            float(moved.median() / torch.linalg.vector_norm(features - features.roll(1, 0), dim=1).median())
        )
    assert relative[0] < 0.5 * relative[1]


def test_self_check_passes_what_ships(robust, sample):
    assert self_check(robust, *sample) == accuracy(robust, *sample)


@pytest.mark.parametrize("fault", ["normalisation", "classes"])
def test_self_check_finds_the_usual_faults(robust, sample, fault):
    images, labels = sample
    if fault == "classes":
        labels = (labels + 3) % 10
        broken = robust
    else:
        entry = checkpoints.entry("cifar10-l2-0.5")
        network = nb.models.resnet("resnet18", width=16)
        network.load_state_dict(checkpoints.read_weights(checkpoints.fetch(entry.name)).state)
        broken = nb.Model(network, mean=(120, 120, 120), std=(60, 60, 60))
    with pytest.raises(ValueError, match=r"is near chance \(10.0 %\); usual causes: the wrong normalisation"):
        self_check(broken, images, labels)


def test_self_check_compares_with_the_published_figure(robust, sample):
    with pytest.raises(ValueError, match=r"images right, expected 95.0 %; usual causes"):
        self_check(robust, *sample, expected=95)
    assert self_check(robust, *sample, expected=accuracy(robust, *sample)) > 60


@pytest.mark.parametrize("label", [-1, 10])
def test_labels_of_another_data_set_are_refused(robust, sample, label):
    with pytest.raises(ValueError, match=r"labels: wanted 0 to 9"):
        accuracy(robust, sample[0][:2], torch.tensor([0, label]))


def test_the_command_line_checks_itself(capsys):
    assert main(["cifar10-standard", "--quick", "--n", "64", "--device", "cpu"]) == 0
    assert "as it should be" in capsys.readouterr().out


def test_the_command_line_measures_and_writes(tmp_path, capsys, monkeypatch):
    written = []
    monkeypatch.setattr(checkpoints, "write_entry", written.append)
    options = ["--n", "16", "--eps", "0.25", "1", "--steps", "3", "--device", "cpu", "--write"]
    assert main(["cifar10-l2-0.5", *options, "--json", str(tmp_path / "result.json")]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["clean"] >= result["l2"]["0.25"] >= result["l2"]["1.0"]
    assert result["sensitivity"]["0.25"] < result["sensitivity"]["1.0"]
    assert result["n"] == 16 and result["attack"] == "3-step L2 PGD, 1 random start"
    assert written[0].accuracy["l2"] == result["l2"] and written[0].name == "cifar10-l2-0.5"
    assert written[0].training == checkpoints.entry("cifar10-l2-0.5").training
    assert "sensitivity" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["cifar11"], "unknown checkpoint"),
        (["torchvision:mnasnet0_5", "--write"], "is not in the manifest"),
        (["cifar10-l2-0.5", "--n", "4", "--eps", "-1", "--device", "cpu"], "wanted positive numbers"),
    ],
)
def test_the_command_line_says_what_is_wrong(argv, message, capsys):
    assert main(argv) == 1
    assert message in capsys.readouterr().err
