"""Resuming requires the same images, classes and weights."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from samples import put
from torch import nn

from nbhelpers import files
from nbhelpers.checkpoints.downloads import weights_sha256
from nbhelpers.commands import main
from nbhelpers.files import check_writable, save_tensors
from nbhelpers.networks import load_model, resnet
from nbhelpers.networks.model import Model
from nbhelpers.runs import shards
from nbhelpers.runs.shards import Settings, make_shards
from nbhelpers.training.loop import train
from nbhelpers.training.settings import Training


def pictures(
    folder: Path,
    classes: tuple[str, ...] = ("cat", "dog"),
    n: int = 24,
    size: tuple[int, int] = (8, 8),
) -> Path:
    random = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(n):
            pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
            PIL.Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def begun(tmp_path: Path) -> Training:
    small = {
        "width": 4,
        "epochs": 1,
        "held_out": 8,
        "batch_size": 8,
        "precision": "float32",
        "eps": 0.1,
    }
    config = Training(dataset=str(pictures(tmp_path / "set")), **small)
    train(config, tmp_path / "out", device="cpu")
    return config


def without_record(state: Path) -> None:
    """In an earlier version's format."""
    with safe_open(state, "pt") as file:
        note = json.loads(file.metadata()["nbhelpers"])
    save_tensors(state, load_file(state), {key: note[key] for key in ("config", "history")})


def resume(config: Training, tmp_path: Path) -> list[dict[str, float]]:
    return train(config, tmp_path / "out", resume=True, device="cpu")


def test_training_goes_on_with_the_same_images_only(begun: Training, tmp_path: Path) -> None:
    assert len(resume(begun, tmp_path)) == 1
    shutil.copy(tmp_path / "set" / "cat" / "0.png", tmp_path / "set" / "cat" / "1.png")
    with pytest.raises(
        ValueError, match=r"set has other images than the run began with; put them back"
    ):
        resume(begun, tmp_path)
    without_record(tmp_path / "out" / "state.safetensors")
    assert len(resume(begun, tmp_path)) == 1  # not recorded by earlier versions


def test_a_class_added_before_resuming_is_one_clear_line(begun: Training, tmp_path: Path) -> None:
    pictures(tmp_path / "set", ("emu",))
    with pytest.raises(
        ValueError, match=r"has 3 classes, the run began with 2 \(new: emu\); put them back"
    ):
        resume(begun, tmp_path)
    without_record(tmp_path / "out" / "state.safetensors")
    with pytest.raises(ValueError, match="other outputs than the 3 classes"):
        resume(begun, tmp_path)
    (tmp_path / "out" / "state.safetensors").write_bytes(b"cut short")
    with pytest.raises(ValueError, match=r"state\.safetensors is damaged"):
        resume(begun, tmp_path)


def test_training_refuses_a_single_class_and_a_folder_it_cannot_write(
    begun: Training, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"cannot write to .*file/out"):
        train(begun, tmp_path / "file" / "out", device="cpu")
    shutil.rmtree(tmp_path / "set" / "dog")
    with pytest.raises(
        ValueError, match=r"all images of .* are of one class \(cat\); wanted at least two"
    ):
        train(begun, tmp_path / "other", device="cpu")


def test_commands_learn_at_their_start_that_they_cannot_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    place = str(tmp_path / "file" / "result.json")
    assert main(["evaluate", "cifar10-standard", "--n", "2", "--json", place]) == 2
    assert "cannot write to" in capsys.readouterr().err
    monkeypatch.setattr(files, "CHECKPOINTS", tmp_path / "file")
    for name, told in (("mine", "cannot write to"), ("a/b", "--publish: got 'a/b', wanted a name")):
        assert main(["train", "--publish", name, "--output", str(tmp_path / "out")]) == 2
        assert told in capsys.readouterr().err
    check_writable(tmp_path / "new" / "folder")
    assert not list((tmp_path / "new" / "folder").iterdir())


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    def loaded(checkpoint: str, *_: object, **__: object) -> Model:
        torch.manual_seed(len(Path(checkpoint).read_bytes()))
        network = nn.Sequential(
            nn.Conv2d(3, 6, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)
        )
        return Model(network, image_size=8, name="tiny")

    monkeypatch.setattr(shards, "load_model", loaded)
    shards._loaded.cache_clear()
    (tmp_path / "weights.pt").write_bytes(b"first")
    return Settings(
        "invert",
        str(tmp_path / "weights.pt"),
        str(pictures(tmp_path / "set", n=4)),
        steps=2,
        batch_size=2,
    )


def test_shards_go_on_with_the_same_images_and_weights_only(
    settings: Settings, tmp_path: Path
) -> None:
    def made(config: Settings = settings, **options: int) -> dict:
        return make_shards(config, tmp_path / "out", shard_size=2, **options)

    made(limit=4)
    index = made(limit=6)
    assert index["made_from"]["checkpoint"] == weights_sha256(settings.checkpoint)
    (tmp_path / "weights.pt").write_bytes(b"other weights")
    with pytest.raises(
        ValueError, match=r"was made with other contents of .*weights\.pt; choose another folder"
    ):
        made()
    (tmp_path / "weights.pt").write_bytes(b"first")
    kept = (tmp_path / "set" / "cat" / "0.png").read_bytes()
    shutil.copy(tmp_path / "set" / "cat" / "1.png", tmp_path / "set" / "cat" / "0.png")
    with pytest.raises(ValueError, match=r"was made with other contents of .*set; choose"):
        made()
    (tmp_path / "set" / "cat" / "0.png").write_bytes(kept)
    assert made()["count"] == 8  # only the date changed
    for path in (tmp_path / "out").glob("shard-*"):  # in an earlier version's format
        save_tensors(path, load_file(path), {"settings": dataclasses.asdict(settings)})
    (tmp_path / "weights.pt").write_bytes(b"other weights")
    assert made()["count"] == 8


def test_a_worker_loads_a_file_that_was_replaced_anew(settings: Settings, tmp_path: Path) -> None:
    first = shards._model(settings.checkpoint, "cpu", "float32")
    assert shards._model(settings.checkpoint, "cpu", "float32") is first
    (tmp_path / "weights.pt").write_bytes(b"other weights")
    assert shards._model(settings.checkpoint, "cpu", "float32") is not first
    (tmp_path / ".locks").mkdir()
    sources = {"checkpoint": "another", "dataset": ""}
    with pytest.raises(ValueError, match="another file here than where the shards were begun"):
        shards.make_shard(settings, sources, tmp_path, (0, 2))


def test_training_begins_with_weights_that_a_wrapper_saved(tmp_path):
    data = put(tmp_path / "data", *[f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(4)])
    network = resnet("resnet18", width=4, classes=2)
    torch.save(
        {"state_dict": {f"model.net.{k}": v for k, v in network.state_dict().items()}},
        tmp_path / "start.pt",
    )
    settings = Training(
        dataset=str(data),
        start=str(tmp_path / "start.pt"),
        width=4,
        image_size=16,
        epochs=1,
        eps=0.0,
        batch_size=4,
        held_out=2,
        average=0.0,
        learning_rate=1e-9,
    )
    train(settings, tmp_path / "out", device="cpu")
    found = load_model(tmp_path / "out" / "weights.safetensors", device="cpu")
    torch.testing.assert_close(found.head.weight, network.linear.weight, atol=1e-3, rtol=1e-2)
