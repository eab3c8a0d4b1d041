"""Training: attack, resuming, several processes, a bare machine, wrong settings."""

import dataclasses
import json
import os
import resource
import subprocess
import sys
import textwrap
import time
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from torchvision.utils import save_image

import nbhelpers as nb
from nbhelpers import checkpoints, files
from nbhelpers.attack import perturb
from nbhelpers.commands import main
from nbhelpers.networks.loading import build_network
from nbhelpers.networks.resnets import resnet
from nbhelpers.training import examples, loop
from nbhelpers.training.examples import augment
from nbhelpers.training.folded import FoldedCopy
from nbhelpers.training.loop import Trainer, train
from nbhelpers.training.settings import Training

ROOT = Path(__file__).parents[2]
# 384 training images, three batches, eight channels: about a second per epoch.
SMALL = Training(
    dataset="cifar10-sample", width=4, epochs=2, held_out=20, batch_size=128, precision="float32"
)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = nb.load_images("cifar10-sample", indices=range(404))
    monkeypatch.setattr(examples, "count_images", lambda source: 404)
    read = examples.load_images

    def load(source: str, *, indices=None, size=None):
        if source != "cifar10-sample":
            return read(source, indices=indices, size=size)
        rows = list(indices) if indices is not None else list(range(404))
        return images[rows].clone(), labels[rows]

    monkeypatch.setattr(examples, "load_images", load)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images as a folder, for other processes."""
    folder = tmp_path_factory.mktemp("few")
    images, labels = nb.load_images("cifar10-sample", indices=range(404))
    for index, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        (folder / f"class{label}").mkdir(exist_ok=True)
        save_image(image, folder / f"class{label}" / f"{index:03d}.png")
    return folder


def command(dataset: object, *arguments: object) -> list[str]:
    flags = [
        "--dataset",
        dataset,
        "--width",
        4,
        "--precision",
        "float32",
        "--held-out",
        20,
        *arguments,
    ]
    return [sys.executable, "-m", "nbhelpers", "train", *map(str, flags)]


def loss(network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return functional.cross_entropy(network(images), labels, reduction="none")


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.5), ("linf", 8 / 255)])
def test_the_perturbation_stays_in_its_ball_and_raises_the_loss(norm, eps):
    model = nb.load_model("cifar10-l2-0.5", device="cpu")
    images, labels = nb.load_images("cifar10-sample", indices=range(32))
    generator = torch.Generator().manual_seed(0)
    moved = perturb(model, images, labels, eps=eps, norm=norm, steps=2, generator=generator)
    change = moved - images
    length = change.flatten(1).norm(dim=1) if norm == "l2" else change.abs().flatten(1).amax(1)
    assert float(length.max()) <= eps + 1e-5 and float(moved.min()) >= 0 and float(moved.max()) <= 1
    assert (loss(model, moved, labels) > loss(model, images, labels)).float().mean() > 0.95
    assert float(images.min()) >= 0 and moved is not images


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_attacked_twin_follows_the_network(name):
    torch.manual_seed(0)
    network, images = resnet(name, width=4, downsample="pool"), torch.rand(8, 3, 32, 32)
    mean, std = torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.25)
    attacked = FoldedCopy(network.train(), mean, std, torch.float32)
    assert attacked.pairs and network.training
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        network((images - mean) / std)  # changes the running statistics
        attacked.refresh()
        network.eval()
        torch.testing.assert_close(
            attacked(images), network((images - mean) / std), rtol=1e-3, atol=1e-4
        )


def test_a_network_that_cannot_be_folded_is_attacked_as_it_is():
    network = build_network("wide-resnet-10-1", 10, {}).train()
    zero, one = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    attacked = FoldedCopy(network, zero, one, torch.float32)
    attacked.refresh()
    images = torch.rand(2, 3, 32, 32)
    found = attacked(images)
    assert attacked.twin is None and network.training
    torch.testing.assert_close(found, network.eval()(images))


def test_augmented_images_are_shifted_and_mirrored():
    image = torch.rand(1, 3, 32, 32)
    many = augment(image.expand(200, -1, -1, -1), torch.Generator().manual_seed(0))
    padded = functional.pad(image, (4, 4, 4, 4))[0]
    shifts = [padded[:, i : i + 32, j : j + 32] for i in range(9) for j in range(9)]
    allowed = torch.stack(shifts + [shift.flip(2) for shift in shifts]).flatten(1)
    assert all((one.flatten() == allowed).all(1).any() for one in many)
    assert len(torch.unique(many.flatten(1), dim=0)) > 80


def test_a_run_leaves_metrics_a_curve_and_weights_that_load(tmp_path):
    history = train(SMALL, tmp_path, device="cpu")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == history and [line["epoch"] for line in lines] == [1, 2]
    assert {"loss", "clean", "robust", "images_per_second", "seconds"} <= set(lines[0])
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    model = nb.load_model(tmp_path / "weights.safetensors", device="cpu")
    assert model.components == 32 and model.classes == nb.class_names("cifar10-sample")
    saved = load_file(tmp_path / "weights.safetensors")
    assert {t.dtype for t in saved.values() if t.is_floating_point()} == {torch.float16}
    entry = checkpoints.read_weights(tmp_path / "weights.safetensors").entry
    assert (
        entry.training["eps"] == 0.5
        and entry.training["code"]
        and entry.arguments["downsample"] == "pool"
    )


def test_standard_and_linf_training_run_too(tmp_path):
    for name, settings in {
        "standard": {"eps": 0},
        "linf": {"eps": 8 / 255, "norm": "linf"},
    }.items():
        config = dataclasses.replace(SMALL, epochs=1, **settings)
        assert len(train(config, tmp_path / name, device="cpu")) == 1


def test_the_robust_loss_falls(tmp_path):
    config = dataclasses.replace(SMALL, width=8, eps=0.25, batch_size=32)
    history = train(config, tmp_path, device="cpu")
    assert history[-1]["loss"] < history[0]["loss"] - 0.1


def test_killed_and_resumed_equals_uninterrupted(tmp_path, folder):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = subprocess.Popen(command(folder, "--epochs", 3, "--output", broken), env=ENVIRONMENT)
    while process.poll() is None and not (broken / "metrics.jsonl").exists():
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert len((broken / "metrics.jsonl").read_text().splitlines()) < 3
    assert main(command(folder, "--epochs", 3, "--output", broken, "--resume")[3:]) == 0
    assert main(command(folder, "--epochs", 3, "--output", whole)[3:]) == 0
    for file in ("state.safetensors", "weights.safetensors"):
        one, other = load_file(whole / file), load_file(broken / file)
        assert set(one) == set(other) and all(torch.equal(one[key], other[key]) for key in one)


def test_two_processes_end_with_the_same_weights(tmp_path, folder):
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(f"""
        from pathlib import Path
        import torch
        from nbhelpers.training.settings import Training
        from nbhelpers.training.loop import Trainer
        config = Training(dataset={str(folder)!r}, width=4, epochs=1, precision="float32", held_out=20)
        run = Trainer(config, Path({str(tmp_path / "out")!r}), False, "cpu", 1)
        run.epochs()
        torch.save(run.network.state_dict(), {str(tmp_path)!r} + f"/rank{{run.rank}}.pt")
        """)
    )
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(script),
    ]
    subprocess.run(torchrun, env=ENVIRONMENT, check=True, capture_output=True, timeout=300)
    one, other = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(one[key], other[key]) for key in one)
    saved = load_file(tmp_path / "out" / "state.safetensors")
    assert all(torch.equal(saved[f"network.{key}"], one[key]) for key in one)
    assert len((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) == 1


def test_it_runs_in_a_bare_pytorch_image(tmp_path, folder):
    """Only torch, safetensors, tqdm and their dependencies can be imported."""
    allowed = (
        "torch torchvision safetensors tqdm numpy PIL filelock typing_extensions sympy "
        "mpmath networkx jinja2"
    )
    allowed += " markupsafe fsspec packaging triton nbhelpers setuptools yaml torchgen functorch"
    script = textwrap.dedent(f"""
        import importlib.machinery, importlib.metadata, sys
        absent = set(importlib.metadata.packages_distributions()) - set({allowed!r}.split())
        class Bare(importlib.machinery.PathFinder):
            @classmethod
            def find_spec(cls, name, path=None, target=None):
                return None if name.split(".")[0] in absent else super().find_spec(name, path, target)
        sys.meta_path[:] = [*sys.meta_path[:2], Bare]  # after the finders of built-in and frozen modules
        from nbhelpers.commands import main
        sys.exit(main({command(folder, "--epochs", 1, "--output", tmp_path / "out")[3:]!r}))
    """)
    done = subprocess.run(
        [sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "no curve.png" in done.stdout and (tmp_path / "out" / "weights.safetensors").exists()


def test_publishing_writes_the_checkpoint_and_its_entry(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CHECKPOINTS", tmp_path)
    (tmp_path / "manifest.toml").write_text((ROOT / "checkpoints" / "manifest.toml").read_text())
    flags = command(
        "cifar10-sample", "--epochs", 1, "--publish", "mine", "--output", tmp_path / "out"
    )[3:]
    assert main(flags) == 0
    entry = checkpoints.entry("mine")
    assert entry.training["epochs"] == 1 and entry.sha256 == checkpoints.sha256(
        tmp_path / "mine.safetensors"
    )
    assert nb.load_model("mine", device="cpu").components == 32


@pytest.mark.parametrize(("eps", "norm", "message"), [(3, "l2", "55.4"), (0.2, "linf", "8/255")])
def test_an_eps_that_makes_no_sense_is_warned_of(tmp_path, eps, norm, message):
    config = dataclasses.replace(SMALL, eps=eps, norm=norm)
    with pytest.warns(UserWarning, match=message):
        Trainer(config, tmp_path, False, "cpu", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trainer(SMALL, tmp_path, False, "cpu", 1)


def test_a_data_set_smaller_than_a_batch_is_refused(tmp_path):
    with pytest.raises(ValueError, match="batch_size: got 512, wanted at most the 384 images"):
        train(dataclasses.replace(SMALL, batch_size=512), tmp_path, device="cpu")


def test_images_without_labels_are_refused(tmp_path):
    with pytest.raises(ValueError, match="one folder per class"):
        config = dataclasses.replace(
            SMALL, dataset=str(files.DATA / "out-of-distribution"), image_size=32, held_out=1
        )
        train(config, tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "l1"}, "l2, linf"),
        ({"epochs": 0}, "at least 1"),
        ({"eps": -1}, "not negative"),
        ({"average": 1}, "1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **settings)


def test_an_output_in_use_is_not_overwritten_nor_resumed_with_other_settings(tmp_path):
    train(dataclasses.replace(SMALL, epochs=1), tmp_path, device="cpu")
    with pytest.raises(FileExistsError, match="resume it, or name another output"):
        train(SMALL, tmp_path, device="cpu")
    with pytest.raises(ValueError, match=r"other settings: eps 0\.5, not 0\.25, epochs 1, not 2"):
        train(dataclasses.replace(SMALL, eps=0.25), tmp_path, resume=True, device="cpu")


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_good_network(tmp_path, monkeypatch):
    epoch = Trainer.epoch

    def spoilt(self, index, total, bar):
        if index == 1:
            next(self.network.parameters()).data.fill_(torch.nan)
        return epoch(self, index, total, bar)

    monkeypatch.setattr(Trainer, "epoch", spoilt)
    with pytest.raises(ValueError, match=r"not a number at step 0 of epoch 2.*after epoch 1"):
        train(SMALL, tmp_path, device="cpu")
    assert all(t.isfinite().all() for t in load_file(tmp_path / "state.safetensors").values())
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_full_disk_leaves_the_last_good_files(tmp_path, monkeypatch):
    epoch = Trainer.epoch
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def filling(self, index, total, bar):
        if index == 1:  # limits files to 10 kB
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        return epoch(self, index, total, bar)

    monkeypatch.setattr(Trainer, "epoch", filling)
    try:
        with pytest.raises(OSError, match="last good ones"):
            train(SMALL, tmp_path, device="cpu")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "metrics.jsonl",
        "state.safetensors",
    ]
    monkeypatch.setattr(Trainer, "epoch", epoch)
    assert len(train(SMALL, tmp_path, resume=True, device="cpu")) == 2


def test_a_training_can_begin_with_another_networks_weights(tmp_path):
    config = dataclasses.replace(SMALL, width=16, eps=0.0, start="cifar10-l2-0.5", epochs=1)
    begun, wanted = (
        Trainer(config, tmp_path / "run", False, "cpu", 2),
        load_file(checkpoints.fetch("cifar10-l2-0.5")),
    )
    for network in (begun.network, begun.average):
        assert all(
            torch.equal(tensor, wanted[key].float()) for key, tensor in network.state_dict().items()
        )
    with pytest.raises(
        ValueError, match=r"start: cifar10-l2-0\.5 does not fit this architecture; it lacks "
    ):
        Trainer(dataclasses.replace(config, width=4), tmp_path / "other", False, "cpu", 2)


def test_a_copied_folder_without_git_still_says_what_trained_it(monkeypatch):
    def absent(*_, **__):
        raise FileNotFoundError("git")

    def not_installed(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(loop.subprocess, "run", absent)
    assert loop.code_version() == version("nbhelpers")
    monkeypatch.setattr(loop, "version", not_installed)
    assert loop.code_version() == "unknown"
