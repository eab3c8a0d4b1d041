"""Shards: equal to a single shard, resumable, on any executor (tiny random network)."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from samples import small
from torch import nn

from nbhelpers.commands import main
from nbhelpers.networks.model import Model
from nbhelpers.runs import shards
from nbhelpers.runs.shards import Settings, make_shards, read_shards


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch: pytest.MonkeyPatch) -> Model:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 10)
    )
    model = Model(network, image_size=32, name="tiny")
    monkeypatch.setattr(shards, "_model", lambda checkpoint, device, precision: model)
    return model


INVERT = Settings("invert", "tiny", "cifar10-sample", steps=3, batch_size=4)
VISUALIZE = Settings("visualize", "tiny", starts=2, steps=3, batch_size=4)


def whole(folder: Path) -> dict[str, torch.Tensor]:
    parts = list(read_shards(folder))
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


@pytest.mark.parametrize("settings", [INVERT, VISUALIZE], ids=["invert", "visualize"])
def test_shards_are_together_the_single_run(settings: Settings, tmp_path: Path) -> None:
    index = make_shards(settings, tmp_path / "many", shard_size=4, limit=18)
    with ThreadPoolExecutor(2) as executor:
        make_shards(settings, tmp_path / "threads", executor, shard_size=8, limit=18)
    single = make_shards(settings, tmp_path / "one", shard_size=20, limit=18)
    assert index["count"] == 18 and len(index["shards"]) == 5 and len(single["shards"]) == 1
    assert index["mean_loss"] == single["mean_loss"]
    one = whole(tmp_path / "one")
    for name in ("many", "threads"):
        assert all(torch.equal(value, one[key]) for key, value in whole(tmp_path / name).items())
    assert one["images"].shape == (18, 3, 32, 32) and one["images"].dtype == torch.uint8
    assert one["indices"].tolist() == list(range(18)) and (one["loss"] <= one["start_loss"]).all()


def test_losses_that_are_not_finite_make_no_shard(tmp_path, tiny_network, capsys) -> None:
    next(tiny_network.parameters()).data[:] = torch.nan
    with pytest.raises(RuntimeError, match=r"not finite: loss \(4 NaN of 4\); look at the weights"):
        make_shards(VISUALIZE, tmp_path, shard_size=4, limit=4)
    assert not list(tmp_path.glob("*.safetensors")) and not (tmp_path / "index.json").exists()


def test_all_components_are_visualized_from_different_starts(tmp_path: Path) -> None:
    make_shards(VISUALIZE, tmp_path, shard_size=16)
    made = whole(tmp_path)
    assert made["components"].tolist() == [component for component in range(24) for _ in range(2)]
    assert not torch.equal(made["images"][0], made["images"][1])


def test_it_resumes_and_makes_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items, seen = shards._items, []

    def failing(settings: Settings, model: Model, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append(int(indices[0]))
        if seen == [0, 4]:
            raise RuntimeError("out of memory")
        return items(settings, model, indices)

    monkeypatch.setattr(shards, "_items", failing)
    with pytest.raises(
        RuntimeError,
        match=r"1 of 3 shards failed, first images 4 to 7: RuntimeError: out of memory",
    ):
        make_shards(INVERT, tmp_path, shard_size=4, limit=12)
    with pytest.raises(ValueError, match="not yet complete"):
        read_shards(tmp_path)
    make_shards(INVERT, tmp_path, shard_size=4, limit=12)
    assert seen == [0, 4, 8, 4]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".shard")]
    assert json.loads((tmp_path / "index.json").read_text())["settings"]["checkpoint"] == "tiny"


def test_other_settings_and_wrong_ones_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_shards(INVERT, tmp_path / "out", shard_size=4, limit=4)
    with pytest.raises(ValueError, match=r"was made with steps 3; choose another folder"):
        make_shards(replace(INVERT, steps=4), tmp_path / "out", shard_size=4, limit=4)
    with pytest.raises(ValueError, match="multiple of batch_size"):
        make_shards(INVERT, tmp_path / "out", shard_size=6)
    (tmp_path / "file").write_text("in the way")
    words = ["--checkpoint", "tiny", "-o", str(tmp_path / "file")]
    assert main(["invert", "--dataset", "cifar10-sample", *words]) == 2
    assert "cannot write to" in capsys.readouterr().err
    assert main(["invert", "--dataset", "cifar10-sampl", *words]) == 2
    assert "near names: cifar10-sample" in capsys.readouterr().err


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--checkpoint",
        "tiny",
        "-o",
        str(tmp_path),
        "--steps",
        "2",
        "--batch",
        "4",
        "--shard",
        "8",
        "--limit",
        "9",
    ]
    assert main(["visualize", *words, "--jobs", "1"]) == 0
    assert "9 items in 2 shards" in capsys.readouterr().out


def test_grey_networks_are_visualized_in_shards(monkeypatch, tmp_path):
    grey = Model(small(channels=1), image_size=16)
    monkeypatch.setattr(shards, "_model", lambda *_: grey)
    settings = shards.Settings("visualize", "cifar10-standard", steps=1, batch_size=4)
    shards.make_shards(settings, tmp_path, shard_size=8, limit=8, device="cpu")
    assert next(shards.read_shards(tmp_path))["images"].shape == (8, 1, 16, 16)
