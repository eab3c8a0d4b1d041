"""Accuracy, attack and self-check agree with the manifest and with foolbox; errors."""

import dataclasses
import json
import re
import shutil
import tomllib
import warnings

import numpy as np
import PIL.Image
import pytest
import torch

import nbhelpers as nb
from nbhelpers import checkpoints, files
from nbhelpers.attack import fooled, sensitivity
from nbhelpers.commands import main
from nbhelpers.networks.resnets import resnet
from nbhelpers.pair.checks import check_imported, self_check
from nbhelpers.pair.scoring import accuracy

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
    beaten = theirs(foolbox.PyTorchModel(robust, bounds=(0, 1)), images, labels, epsilons=eps)[2]
    ours = fooled(robust, images, labels, eps, steps=steps)
    assert int(ours.sum()) >= int(beaten.sum()) - 1
    assert 0.25 * N < int(ours.sum()) < 0.55 * N


def test_an_attack_stays_in_its_ball_and_repeats_with_its_seed(robust, sample, monkeypatch):
    images, labels = sample[0][:8], sample[1][:8]
    seen = []
    whole = nb.minimize
    watched = {"callback": lambda step: seen.append(step.images)}
    monkeypatch.setattr("nbhelpers.attack.minimize", lambda *a, **k: whole(*a, **{**k, **watched}))
    first = fooled(robust, images, labels, 0.5, steps=3, seed=1)
    starts = seen[0]
    right = images[nb.predict(robust, images) == labels]
    for step in seen:
        assert (torch.linalg.vector_norm(step - right, dim=(1, 2, 3)) <= 0.5 + 1e-4).all()
        assert step.min() >= 0 and step.max() <= 1
    assert torch.equal(first, fooled(robust, images, labels, 0.5, steps=3, seed=1))
    seen.clear()
    fooled(robust, images, labels, 0.5, steps=3, seed=2)
    assert not torch.equal(starts, seen[0])


def test_restarts_and_radius_only_make_it_worse(standard, sample):
    images, labels = sample[0][:32], sample[1][:32]
    one = fooled(standard, images, labels, 0.1, steps=3)
    assert (fooled(standard, images, labels, 0.1, steps=3, restarts=2) >= one).all()
    assert fooled(standard, images, labels, 0.5, steps=3).sum() >= one.sum()
    wrong = nb.predict(standard, images) != labels
    # these need no attack
    assert torch.equal(fooled(standard, images, labels, 1e-6, steps=1), wrong)


def test_the_robust_network_is_less_sensitive(robust, standard, sample):
    images = sample[0][:16]
    relative = []
    for model in (robust, standard):
        moved = sensitivity(model, images, 0.5, steps=5)
        features = nb.represent(model, images)
        assert moved.shape == (16,) and (moved > 0).all()
        assert (sensitivity(model, images, 0.05, steps=5) < moved).all()
        relative.append(
            float(
                moved.median()
                / torch.linalg.vector_norm(features - features.roll(1, 0), dim=1).median()
            )
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
        network = resnet("resnet18", width=16)
        network.load_state_dict(checkpoints.read_weights(checkpoints.fetch(entry.name)).state)
        broken = nb.Model(network, mean=(120, 120, 120), std=(60, 60, 60))
    with pytest.raises(
        ValueError, match=r"is near chance \(10.0 %\); usual causes: the wrong normalisation"
    ):
        self_check(broken, images, labels)


def test_self_check_compares_with_the_published_figure(robust, sample):
    with pytest.raises(ValueError, match=r"images right, expected 95.0 %; usual causes"):
        self_check(robust, *sample, expected=95)
    assert self_check(robust, *sample, expected=accuracy(robust, *sample)) > 60


def test_what_ships_is_not_checked_again(robust, standard, monkeypatch, capsys):
    monkeypatch.setattr(
        "nbhelpers.pair.checks.accuracy", lambda *_, **__: pytest.fail("an accuracy was computed")
    )
    names = ("cifar10-l2-0.5", "cifar10-standard")
    assert check_imported(
        {"robust": robust, "standard": standard}, names, "cifar10-sample", size=32
    )
    assert capsys.readouterr().out == ""


@pytest.fixture
def nameless(robust):
    entry = checkpoints.entry("cifar10-l2-0.5")
    network = resnet("resnet18", width=16)
    network.load_state_dict(checkpoints.read_weights(checkpoints.fetch(entry.name)).state)
    return nb.Model(network, mean=entry.mean, std=entry.std, name="cifar10-standard")


def test_an_imported_network_is_checked_and_takes_the_names(robust, nameless, capsys):
    """The given path counts, not the file's name, which belongs to a network of 87 %."""
    models = {"robust": nameless, "standard": robust}
    assert check_imported(
        models, ("x/cifar10-standard.pt", "cifar10-l2-0.5"), "cifar10-sample", size=32
    )
    printed = capsys.readouterr().out
    assert printed.startswith("x/cifar10-standard.pt: 7") and printed.count("\n") == 1
    assert printed.endswith(" % of 100 images of cifar10-sample are right (chance 10 %)\n")
    assert nameless.classes == robust.classes


def test_a_published_network_must_reach_its_figure(nameless, monkeypatch):
    whole = checkpoints.manifest()
    for published, fits in ((77.0, True), (99.0, False)):
        entry = checkpoints.Entry(
            "theirs", "x.pt", "resnet18", dataset="cifar10", published={"clean": published}
        )
        monkeypatch.setattr(
            "nbhelpers.pair.checks.manifest", lambda entry=entry: {**whole, "theirs": entry}
        )
        if fits:
            assert check_imported({"robust": nameless}, ["theirs"], "cifar10-sample", size=32)
        else:
            with pytest.raises(ValueError, match=r"expected 99.0 %; usual causes"):
                check_imported({"robust": nameless}, ["theirs"], "cifar10-sample", size=32)


@pytest.mark.parametrize(
    ("folders", "reason", "labelled"),
    [
        ([""], "has no labels", False),
        (["lamp", "sofa"], "has 2 classes, the network 10", False),
        (["cat", "dog"], "has only 2 images", True),
        (
            [f"{i} pans" for i in range(10)],
            r"has other classes \(0 pans, …\) than the network \(airplane, …\)",
            False,
        ),
        (list(nb.class_names("cifar10-sample")), "has only 10 images", True),
    ],
)
def test_what_cannot_be_checked_is_said(robust, tmp_path, capsys, folders, reason, labelled):
    for name in folders:
        (tmp_path / name).mkdir(exist_ok=True)
        PIL.Image.new("RGB", (32, 32)).save(tmp_path / name / "0.png")
    assert check_imported({"robust": robust}, ["mine.pt"], tmp_path, size=32) == labelled
    assert re.fullmatch(f"mine.pt: accuracy not checked: .* {reason}\n", capsys.readouterr().out)


def test_networks_for_different_classes_are_not_set_side_by_side(robust):
    two = nb.Model(resnet("resnet18", width=4, classes=2))
    with pytest.raises(
        ValueError,
        match=r"classes: got 2 of mine.pt and 10 of cifar10-l2-0.5; give a checkpoint and a",
    ):
        check_imported(
            {"robust": two, "standard": robust},
            ["mine.pt", "cifar10-l2-0.5"],
            "cifar10-sample",
            size=32,
        )


@pytest.mark.parametrize("label", [-1, 10])
def test_labels_of_another_data_set_are_refused(robust, sample, label):
    with pytest.raises(ValueError, match=r"labels: wanted 0 to 9"):
        accuracy(robust, sample[0][:2], torch.tensor([0, label]))


def test_the_command_line_checks_itself(capsys):
    assert main(["evaluate", "cifar10-standard", "--quick", "--n", "64", "--device", "cpu"]) == 0
    assert "as expected" in capsys.readouterr().out


def test_the_command_line_measures_and_writes(tmp_path, capsys, monkeypatch):
    written = []
    monkeypatch.setattr("nbhelpers.checkpoints.entries.write_entry", written.append)
    options = ["--n", "16", "--eps", "0.25", "1", "--steps", "3", "--device", "cpu", "--write"]
    assert (
        main(["evaluate", "cifar10-l2-0.5", *options, "--json", str(tmp_path / "result.json")]) == 0
    )
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["clean"] >= result["l2"]["0.25"] >= result["l2"]["1.0"]
    assert result["sensitivity"]["0.25"] < result["sensitivity"]["1.0"]
    assert result["n"] == 16 and result["attack"] == "3-step L2 PGD, 1 random start"
    assert written[0].accuracy["l2"] == result["l2"] and written[0].name == "cifar10-l2-0.5"
    assert written[0].training == checkpoints.entry("cifar10-l2-0.5").training
    assert "sensitivity" in capsys.readouterr().out


def test_the_command_line_writes_into_the_manifest(tmp_path, monkeypatch, capsys):
    """In a copy: the entry has the new accuracy, everything else is unchanged."""
    name, ours = "cifar10-l2-0.5", files.CHECKPOINTS
    for file in ("manifest.toml", f"{name}.safetensors"):
        shutil.copy(ours / file, tmp_path)
    monkeypatch.setattr(files, "CHECKPOINTS", tmp_path)
    before, text = checkpoints.manifest(), (tmp_path / "manifest.toml").read_text()
    result = tmp_path / "result.json"
    options = [
        "--n",
        "16",
        "--eps",
        "0.5",
        "--steps",
        "2",
        "--device",
        "cpu",
        "--seed",
        "3",
        "--json",
        str(result),
    ]
    assert main(["evaluate", name, *options, "--write"]) == 0
    after, written = checkpoints.manifest(), json.loads(result.read_text())
    assert after[name].accuracy == {
        k: v for k, v in written.items() if k not in ("checkpoint", "device")
    }
    assert after[name].accuracy["n"] == 16 and after[name].accuracy["seed"] == 3
    assert dataclasses.replace(after[name], accuracy=before[name].accuracy) == before[name]
    assert {**after, name: None} == {**before, name: None}
    new = (tmp_path / "manifest.toml").read_text()
    assert tomllib.loads(new)["datasets"] == tomllib.loads(text)["datasets"]
    capsys.readouterr()
    # it loads with its sha256; the accuracy of 16 images may differ
    assert main(["evaluate", name, "--quick", "--n", "64", "--device", "cpu"]) in (0, 2)
    assert "altered" not in capsys.readouterr().err
    assert (
        main(["evaluate", name, *options, "--write"]) == 0
        and (tmp_path / "manifest.toml").read_text() == new
    )


def test_writing_leaves_the_rest_of_the_manifest(tmp_path, monkeypatch):
    shutil.copy(files.CHECKPOINTS / "manifest.toml", tmp_path)
    monkeypatch.setattr(files, "CHECKPOINTS", tmp_path)
    texts = [(tmp_path / "manifest.toml").read_text()]
    for name in ("cifar10-l2-0.5", "cifar10-standard", "new"):
        entry = checkpoints.manifest().get(name) or checkpoints.Entry(
            name, "new.safetensors", "resnet18"
        )
        checkpoints.write_entry(
            dataclasses.replace(entry, accuracy={"clean": 50.0, "sensitivity": {"0.5": 0.1}})
        )
        assert checkpoints.manifest()[name].accuracy["sensitivity"] == {"0.5": 0.1}
        texts.append((tmp_path / "manifest.toml").read_text())
    after = texts[0].partition("# Published networks")
    assert after[1] and all("".join(after[1:]) in text for text in texts[1:])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["cifar11"], "unknown checkpoint"),
        (["torchvision:mnasnet0_5", "--write"], "is not in the manifest"),
        (
            ["cifar10-l2-0.5", "--n", "4", "--eps", "-1", "--device", "cpu"],
            "wanted positive numbers",
        ),
    ],
)
def test_the_command_line_says_what_is_wrong(argv, message, capsys):
    assert main(["evaluate", *argv]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "kind", [list, tuple, np.array, lambda labels: torch.tensor(labels, dtype=torch.uint8)]
)
def test_accuracy_takes_labels_of_any_kind(tiny_model, kind):
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        found = tiny_model(images).argmax(1).tolist()
    assert accuracy(tiny_model, images, kind(found)) == 100
    with pytest.raises(ValueError, match="one per image"):
        accuracy(tiny_model, images, kind(found[:2]))
    names = np.array([tiny_model.classes[k] for k in found])
    assert accuracy(tiny_model, images, names) == 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory, sample):
    """Sixty images of four CIFAR-10 classes under other names, and three of other classes."""
    names = {"Cats": 3, "dog": 5, "car": 1, "ship": 8}
    root = tmp_path_factory.mktemp("named")
    for name, label in names.items():
        (root / name).mkdir()
        for row in (sample[1] == label).nonzero()[:, 0].tolist():
            pixels = (sample[0][row] * 255).round().byte().permute(1, 2, 0).numpy()
            PIL.Image.fromarray(pixels).save(root / name / f"{row}.png")
    (root / "monkey").mkdir()
    for k in range(3):
        PIL.Image.new("RGB", (32, 32), (k, 90, 90)).save(root / "monkey" / f"{k}.png")
    return root


def test_every_score_of_a_folder_is_by_name(robust, folder, sample, capsys, tmp_path):
    """Command, functions and check agree for any order of folders."""
    rows = torch.cat([(sample[1] == label).nonzero()[:, 0] for label in (1, 3, 5, 8)])
    wanted = accuracy(robust, sample[0][rows], sample[1][rows])
    assert accuracy(robust, folder) == accuracy(robust, nb.open_images(folder)) == wanted > 50
    assert self_check(robust, folder, expected=wanted) == wanted
    assert nb.pair.evaluate(robust, folder, eps=[], steps=1)["clean"] == wanted
    names = [robust.classes[label] for label in sample[1].tolist()]
    assert accuracy(robust, sample[0], names) == accuracy(robust, *sample)
    command = ["evaluate", "cifar10-l2-0.5", "--dataset", str(folder), "--device", "cpu"]
    result = tmp_path / "result.json"
    assert main([*command, "--eps", "0.1", "--steps", "1", "--json", str(result)]) == 0
    assert json.loads(result.read_text())["clean"] == pytest.approx(wanted)
    printed = capsys.readouterr().out
    assert (
        "3 of " in printed
        and "are left out: the network has none of their classes (monkey)" in printed
    )


@pytest.mark.parametrize("score", [accuracy, self_check, nb.pair.evaluate, "command"])
@pytest.mark.parametrize("folders", [["lamp", "sofa"], [str(k) for k in range(10)], [""]])
def test_where_no_class_is_the_networks_the_refusal_lists_both(
    robust, tmp_path, capsys, score, folders
):
    for name in folders:
        (tmp_path / name).mkdir(exist_ok=True)
        PIL.Image.new("RGB", (32, 32)).save(tmp_path / name / "0.png")
    if score == "command":
        assert main(["evaluate", "cifar10-l2-0.5", "--dataset", str(tmp_path)]) == 2
        printed = capsys.readouterr().err
    else:
        with pytest.raises(ValueError, match="class") as caught:
            score(robust, tmp_path)
        printed = str(caught.value)
    both = ("has no labels",) if folders == [""] else (", ".join(folders[:6]), "airplane, automob")
    assert all(part in printed for part in both)


def test_networks_whose_classes_are_in_another_order_are_not_set_side_by_side(robust, sample):
    turned = nb.Model(resnet("resnet18", width=4), classes=robust.classes[::-1], image_size=32)
    strange = nb.Model(
        resnet("resnet18", width=4), classes=[f"pan {k}a" for k in range(10)], image_size=32
    )
    for other, why in ((turned, "in another order"), (strange, "trained for the same ones")):
        with pytest.raises(ValueError, match=rf"airplane, .*{why}"):
            check_imported(
                {"robust": robust, "standard": other}, ["a", "b"], "cifar10-sample", size=32
            )
    spelled = ("plane", "car", *robust.classes[2:])
    same = nb.Model(resnet("resnet18", width=4), classes=spelled, image_size=32)
    with pytest.raises(ValueError, match="near chance"):  # untrained, with the same classes
        check_imported({"robust": robust, "standard": same}, ["a", "b"], "cifar10-sample", size=32)


@pytest.mark.parametrize("copies", [1, 3])
def test_one_image_has_an_accuracy_and_no_sensitivity(robust, sample, copies):
    images, labels = sample[0][:1].repeat(copies, 1, 1, 1), sample[1][:1].repeat(copies)
    found = nb.pair.evaluate(robust, images, labels, eps=0.25, steps=1)
    assert found["clean"] in (0, 100) and found["sensitivity"] == {"0.25": None}
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    "eps", [0.25, [0.25], (0.25,), torch.tensor(0.25), np.float32(0.25), np.array([0.25])]
)
def test_a_radius_may_be_any_number(tiny_model, sample, eps):
    found = nb.pair.evaluate(tiny_model, sample[0][:2], sample[1][:2], eps=eps, steps=1)
    assert list(found["l2"]) == ["0.25"]


@pytest.mark.parametrize("eps", [0, -1.0, float("nan"), float("inf"), [0.5, 0]])
def test_a_radius_that_is_none_is_refused(tiny_model, sample, eps):
    with pytest.raises(ValueError, match="wanted positive numbers"):
        nb.pair.evaluate(tiny_model, sample[0][:2], sample[1][:2], eps=eps, steps=1)


def test_one_output_is_never_right(sample):
    one = nb.Model(resnet("resnet18", width=4, classes=1), image_size=32)
    with pytest.raises(ValueError, match="has one output"):
        accuracy(one, sample[0][:4], [0, 0, 0, 0])
    with pytest.raises(ValueError, match="has one output"):
        nb.pair.evaluate(one, sample[0][:4], [0, 0, 0, 0])


@pytest.mark.parametrize(("number", "kind"), [(torch.nan, "NaN"), (torch.inf, "NaN|infinite")])
def test_numbers_that_are_none_give_no_accuracy(sample, number, kind):
    torch.manual_seed(0)
    broken = nb.Model(resnet("resnet18", width=4), image_size=32)
    broken.head.weight.data[0, 0] = number
    with pytest.raises(ValueError, match=rf"its logits are ({kind}) for \d+ of 4 images"):
        accuracy(broken, sample[0][:4], sample[1][:4])
