"""Training throughput: ours, the peer's loop (robustness 1.2.1), and the floor, bare passes."""

import sys
import tempfile
import time
import types
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import MagicMock, patch

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from benchmarks import measure, peer
from nbhelpers.data.images import load_images
from nbhelpers.training.loop import Trainer
from nbhelpers.training.settings import Training

EPS, ATTACK_STEPS, BATCH, STEPS, ROUNDS = 0.5, 2, 128, 4, 5


def main() -> None:
    print(
        f"\n# training: images/s, ResNet-18 of width 16, {ATTACK_STEPS}-step L2 PGD, batch "
        f"{BATCH}, contenders in turn"
    )
    about = measure.header()
    folder = Path(tempfile.mkdtemp())
    config = Training(
        dataset="cifar10-sample",
        attack_steps=ATTACK_STEPS,
        held_out=2000 - STEPS * BATCH,
        epochs=1000,
    )
    images, labels = load_images("cifar10-sample", indices=range(STEPS * BATCH))
    batches = list(zip(images.split(BATCH), labels.split(BATCH), strict=True))
    runs = {}
    for precision in ("float32", Trainer(config, folder, False, "auto", 1).config.precision):
        chosen = Training(**{**vars(config), "precision": precision})
        run = Trainer(chosen, folder, False, "auto", 1)
        runs[f"ours, {precision}"] = lambda run=run: ours(run)
        runs[f"bare passes, {precision}"] = lambda run=run: bare(run, batches)
    theirs = peer.build(
        run.mean.flatten().cpu(), run.std.flatten().cpu(), width=16, downsample="pool"
    )
    if theirs is not None:
        runs["peer, float32"] = lambda: their_loop(theirs.to(run.device), batches)
    seconds = measure.interleave(runs, ROUNDS)
    rows = []
    for name, times in seconds.items():
        row = {"loop": name, "images/s": BATCH / measure.median(times)}
        if theirs is not None:
            row["times the peer's"] = measure.ratio(seconds["peer, float32"], times)
        rows.append(row)
    measure.table(rows)
    measure.save("training", {"about": about, "rows": rows})


def ours(run: Trainer) -> Sequence[float]:
    """Seconds per step of an epoch with data and augmentation, without the held-out scoring."""
    with patch.object(run, "_score", lambda: (0.0, 0.0)):
        record = run.epoch(0, 10**6, tqdm(disable=True))
    return [BATCH / record["images_per_second"]]


def their_loop(model: torch.nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> Sequence[float]:
    """Seconds per step of the peer's loop on batches in memory, without augmentation."""
    apex = {
        name: MagicMock()
        for name in ("tensorboardX", "cox.utils", "cox.store", "cox", "dill", "pandas")
    }
    with patch.dict(sys.modules, apex):
        from robustness.train import _model_loop
    about = types.SimpleNamespace(
        eps=EPS,
        constraint="2",
        attack_lr=2.5 * EPS / ATTACK_STEPS,
        attack_steps=ATTACK_STEPS,
        random_start=1,
        random_restarts=0,
        use_best=0,
        mixed_precision=0,
        custom_eps_multiplier=None,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    with peer.on_this_device(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        started = time.perf_counter()
        _model_loop(about, "train", batches, model, optimizer, 0, True, None)
        return [(time.perf_counter() - started) / len(batches)]


def bare(run: Trainer, batches: Sequence[tuple[Tensor, Tensor]]) -> Sequence[float]:
    """Seconds per step of bare passes: input gradient per attack step, then forward and backward."""
    images, labels = (part.to(run.device) for part in batches[0])
    x = ((images - run.mean) / run.std).to(memory_format=torch.channels_last)

    def step() -> None:
        for _ in range(ATTACK_STEPS):
            inner = images.detach().requires_grad_()
            torch.autograd.grad(functional.cross_entropy(run.attacked(inner), labels), inner)
        with torch.autocast(
            x.device.type, torch.bfloat16, enabled=run.config.precision == "bfloat16"
        ):
            logits = run.network(x)
        functional.cross_entropy(logits.float(), labels).backward()
        run.network.zero_grad()

    run.network.train()
    return measure.laps(step, STEPS)
