"""Stopped trainings leave only complete files, and a folder has one training."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file
from test_resume import pictures

from nbhelpers import checkpoints, files
from nbhelpers.checkpoints.finite import not_finite
from nbhelpers.commands import main
from nbhelpers.files import replacing
from nbhelpers.pair import scoring
from nbhelpers.training import loop

ROOT = Path(__file__).parents[2]


def training(folder: Path) -> list[str]:
    """A training of two epochs of five steps."""
    source, out = str(pictures(folder / "set")), str(folder / "out")
    small = "--width 4 --epochs 2 --held-out 8 --batch-size 8 --precision float32 --eps 0.1"
    return ["train", "--dataset", source, "--output", out, "--device", "cpu", *small.split()]


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    return training(tmp_path)


def stopping(call, at: int, how: int):
    """The function, interrupted by a signal in call number `at`."""
    calls = []

    def stopped(*given, **named):
        calls.append(1)
        if len(calls) == at:
            signal.raise_signal(how)
        return call(*given, **named)

    return stopped


# In the attacks of epochs 1 and 2 (five steps and a held-out batch each), between an epoch's two
# files, and between weights and curve.
MOMENTS = [("perturb", 3), ("perturb", 9), ("write_text", 2), ("replacing", 1)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    """The folder of a whole training."""
    folder = tmp_path_factory.mktemp("whole")
    assert main(training(folder)) == 0
    return folder / "out"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("name", "at"), MOMENTS)
def test_a_stopped_training_says_130_and_goes_on(
    name: str, at: int, how: int, words, uninterrupted, tmp_path, monkeypatch, capsys
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(loop, name, stopping(getattr(loop, name), at, how))
        assert main(words) == 130
    assert f"continue with --resume --output {out}" in capsys.readouterr().err
    left = {path.name for path in out.iterdir()}
    # no partial file, lock or temporary file
    assert left <= {"state.safetensors", "metrics.jsonl", "weights.safetensors"}
    assert ("weights.safetensors" in left) == (name == "replacing")
    assert main([*words, "--resume"]) == 0
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    for file in ("state.safetensors", "weights.safetensors"):
        one, whole = load_file(out / file), load_file(uninterrupted / file)
        assert one.keys() == whole.keys() and all(torch.equal(one[k], whole[k]) for k in one)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["fooled", "sensitivity"])
def test_a_stopped_evaluation_gives_no_figure(name, how, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(files, "CHECKPOINTS", tmp_path)
    manifest = (ROOT / "checkpoints" / "manifest.toml").read_text()
    (tmp_path / "manifest.toml").write_text(manifest)
    weights = "tiny-standard.safetensors"
    (tmp_path / weights).write_bytes((ROOT / "checkpoints" / weights).read_bytes())
    written = tmp_path / "result.json"
    monkeypatch.setattr(scoring, name, stopping(getattr(scoring, name), 2, how))
    command = ["evaluate", "tiny-standard", "--dataset", "photographs", "--n", "4", "--steps", "1"]
    assert main([*command, "--json", str(written), "--write", "--device", "cpu"]) == 130
    told = capsys.readouterr()
    assert "stopped" in told.err and "%" not in told.out and not written.exists()
    assert (tmp_path / "manifest.toml").read_text() == manifest


def test_a_result_that_is_a_folder_is_told_before_the_work(tmp_path, capsys) -> None:
    assert main(["evaluate", "tiny-standard", "--json", str(tmp_path)]) == 2
    told = capsys.readouterr()
    assert "is a folder" in told.err and not told.out


def test_signals_are_as_before_afterwards(words, monkeypatch) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(loop, "perturb", stopping(loop.perturb, 1, signal.SIGTERM))
    assert main(words) == 130
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))


def test_one_folder_is_for_one_training(words, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for more in ([], ["--seed", "1"], ["--resume"]):
        with FileLock(out / ".lock"):
            assert main([*words, *more]) == 2
        assert "another training is at work there" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == [".lock"]  # as after a kill
    assert main(words) == 0 and not (out / ".lock").exists()
    weights = (out / "weights.safetensors").read_bytes()
    for more, told in (
        ([], "contains a run already"),
        (["--seed", "1"], "contains a run already"),
        (["--seed", "1", "--resume"], "seed 0, not 1"),
        (["--eps", "0.2", "--resume"], "eps 0.1, not 0.2"),
    ):
        assert main([*words, *more]) == 2
        assert told in capsys.readouterr().err and not (out / ".lock").exists()
    assert (out / "weights.safetensors").read_bytes() == weights


def test_a_name_of_another_network_is_not_published_over(
    words, tmp_path, monkeypatch, capsys
) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    monkeypatch.setattr(files, "CHECKPOINTS", shelf)
    (shelf / "manifest.toml").write_text((ROOT / "checkpoints" / "manifest.toml").read_text())
    for name in ("cifar10-l2-0.5", "imagenet-l2-3.0"):
        assert main([*words, "--publish", name]) == 2
        assert "is another network of the manifest" in capsys.readouterr().err
    assert not (tmp_path / "out" / "state.safetensors").exists()
    assert main([*words, "--publish", "mine"]) == 0
    first = load_file(shelf / "mine.safetensors")
    assert main([*words, "--publish", "mine", "--resume"]) == 0  # the same training
    again = load_file(shelf / "mine.safetensors")
    assert all(torch.equal(again[key], tensor) for key, tensor in first.items())
    assert checkpoints.entry("mine").sha256 == checkpoints.sha256(shelf / "mine.safetensors")
    assert main([*words, "--publish", "mine", "--seed", "1"]) == 2
    other = [*words[:4], str(tmp_path / "other"), *words[5:], "--publish", "late", "--seed", "1"]

    def taken_meanwhile(*given) -> None:
        checkpoints.save_checkpoint(*given)
        manifest = (shelf / "manifest.toml").read_text()
        (shelf / "manifest.toml").write_text(manifest.replace("[mine", "[late"))

    monkeypatch.setattr(loop, "save_checkpoint", taken_meanwhile)
    assert main(other) == 2 and not (shelf / "late.safetensors").exists()
    assert (tmp_path / "other" / "weights.safetensors").exists()


def test_a_statistic_that_half_precision_cannot_hold_is_saved_as_it_is(
    words, tmp_path, monkeypatch
) -> None:
    epoch = loop.Trainer.epoch

    def extreme(self, *given):
        record = epoch(self, *given)
        for name, buffer in self.average.named_buffers():
            if name.endswith("running_var"):
                buffer[0] = 1e6
        return record

    monkeypatch.setattr(loop.Trainer, "epoch", extreme)
    assert main(words) == 0
    saved = load_file(tmp_path / "out" / "weights.safetensors")
    kept = load_file(tmp_path / "out" / "state.safetensors")
    assert not not_finite(saved)
    for key, tensor in saved.items():
        torch.testing.assert_close(
            tensor.float(), kept[f"average.{key}"].float(), rtol=1e-3, atol=1e-4
        )


def test_weights_that_are_not_finite_end_the_training(words, tmp_path, monkeypatch, capsys) -> None:
    """After an epoch's last step, whose loss is finite."""
    rate = loop.one_cycle
    monkeypatch.setattr(loop, "one_cycle", lambda done: float("inf") if done == 1 else rate(done))
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "weights are not finite after epoch 2" in told and "infinite of" in told
    assert "contains the network after epoch 1" in told and not Path("weights").exists()
    assert not not_finite(load_file(tmp_path / "out" / "state.safetensors"))
    assert not (tmp_path / "out" / "weights.safetensors").exists()


def test_a_curve_is_written_whole_or_not_at_all(tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "curve.png") as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
