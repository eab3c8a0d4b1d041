"""Adversarial training, min over θ of E max over ‖δ‖ ≤ ε of the loss."""

import contextlib
import copy
import dataclasses
import json
import math
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from nbhelpers.attack import perturb
from nbhelpers.checkpoints.downloads import save_checkpoint
from nbhelpers.checkpoints.entries import Entry, dataset_facts
from nbhelpers.checkpoints.finite import halved, not_finite
from nbhelpers.data.images import class_names, identity, labels_of
from nbhelpers.files import check_writable, replacing, save_tensors, write_text
from nbhelpers.networks.loading import best_precision
from nbhelpers.training.architectures import build, loss
from nbhelpers.training.examples import Examples, augment
from nbhelpers.training.folded import FoldedCopy
from nbhelpers.training.settings import Training, warn_of_radius, without_split
from nbhelpers.types import pick_device, square

STEPS_BETWEEN_LOSS_CHECKS = 20  # reading a loss synchronises the device


def train(
    config: Training,
    output: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str = "auto",
    workers: int = 2,
) -> list[dict[str, float]]:
    """Train a network, resumable after each epoch.

    Writes `state.safetensors` (for `resume`) and `metrics.jsonl` (a line per epoch), at the end
    `weights.safetensors` (averaged weights in half precision, for `load_model`) and `curve.png`.
    Under `torchrun` each process computes a part of every batch.

    Args:
        config: the settings.
        output: a folder.
        resume: continue a run in `output`, with the result of an uninterrupted run.
        device: auto, cpu, cuda or mps.
        workers: prefetching threads, for a data set too large for memory.

    Returns:
        Per epoch: loss, clean and robust accuracy of held-out images in percent, images/s, seconds.

    Raises:
        ValueError: settings that do not fit the data or the run in `output`; a loss or weights that
            are not finite.
        FileExistsError: `output` contains a run without `resume`, or another training is writing
            there.
        OSError: such as a full disk; the last epoch's files are complete.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the last epoch's files are complete.

    Source: Madry et al., arXiv:1706.06083, equation (2.1).
    """
    with _alone(Path(output)):
        return Trainer(config, Path(output), resume, device, workers).epochs()


@contextlib.contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Lock a folder for one training, by its process of rank 0."""
    if int(os.environ.get("RANK", 0)):
        yield
        return
    check_writable(output)  # now, not after an epoch
    lock = FileLock(output / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise FileExistsError(
            f"{output}: another training is at work there; name another output"
        ) from None
    except NotImplementedError:  # a file system without locks
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (output / ".lock").unlink()
        lock.release()


class Trainer:
    """One process's part of a training."""

    def __init__(self, config: Training, output: Path, resume: bool, device: str, workers: int):
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.device = self._joined(pick_device(device))
        if config.precision == "auto":
            config = dataclasses.replace(config, precision=best_precision(self.device))
        self.config, self.output = config, output
        self.state_file = output / "state.safetensors"
        if self.state_file.exists() and not resume:
            raise FileExistsError(
                f"{output} contains a run already; resume it, or name another output"
            )
        if self.rank == 0:
            check_writable(output)
        self.examples, self.held_out, self.rows = self._divided(workers)
        warn_of_radius(config, self.examples.shape)
        self.classes, mean, std = _facts(config, self.examples)
        self.mean, self.std = (
            torch.tensor(v, device=self.device)[:, None, None] for v in (mean, std)
        )
        network, self.arguments = build(config, len(self.classes), self.examples.shape)
        self.network: Any = network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        groups: list[dict[str, Any]] = [
            {
                "params": [p for p in self.network.parameters() if p.ndim > 1],
                "weight_decay": config.weight_decay,
            },
            {"params": [p for p in self.network.parameters() if p.ndim <= 1]},
        ]
        self.optimizer = torch.optim.SGD(
            groups, lr=config.learning_rate, momentum=config.momentum, nesterov=config.momentum > 0
        )
        self.history: list[dict[str, float]] = []
        self.reported = False  # that a folded copy was given up
        self.data = identity(config.dataset)
        if self.state_file.exists():
            self._restore()
        dtype = getattr(torch, config.precision)
        self.attacked = FoldedCopy(self.network, self.mean, self.std, dtype)
        self.scored = FoldedCopy(self.average, self.mean, self.std, dtype)
        self.parallel = DistributedDataParallel(self.network) if self.world > 1 else self.network

    def _joined(self, device: torch.device) -> torch.device:
        """This process's device; joins the process group."""
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
            torch.cuda.set_device(device)
        if self.world > 1 and not distributed.is_initialized():
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return device

    def _divided(self, workers: int) -> tuple[Examples, Tensor, Tensor]:
        """The images, the held-out rows and the training rows."""
        config = self.config
        labels = labels_of(config.dataset)
        if int(labels.min()) < 0:
            raise ValueError(
                f"dataset: {config.dataset} has images without a label; wanted one folder per class"
            )
        if len(present := labels.unique()) < 2:
            only = (class_names(config.dataset) or ("?",) * (int(present) + 1))[int(present)]
            raise ValueError(
                f"dataset: all images of {config.dataset} are of one class ({only}); wanted at "
                "least two"
            )
        examples = Examples(config.dataset, config.image_size, self.device, workers)
        order = torch.randperm(examples.count, generator=torch.Generator().manual_seed(config.seed))
        held_out, rows = order[: config.held_out], order[config.held_out :].sort().values
        if len(rows) < config.batch_size or config.batch_size % self.world:
            raise ValueError(
                f"batch_size: got {config.batch_size}, wanted at most the {len(rows)} images "
                f"that {config.held_out} held-out ones leave, and a multiple of the {self.world} "
                "processes"
            )
        return examples, held_out, rows

    def epochs(self) -> list[dict[str, float]]:
        per_epoch = len(self.rows) // self.config.batch_size
        total = self.config.epochs * per_epoch
        bar = tqdm(
            total=total,
            initial=len(self.history) * per_epoch,
            unit="step",
            disable=self.rank > 0 or None,
        )
        with bar:
            for epoch in range(len(self.history), self.config.epochs):
                record = self.epoch(epoch, total, bar)
                self.history.append(record)
                if self.rank == 0:
                    self._save()
                    bar.write(" ".join(f"{name} {value:.4g}" for name, value in record.items()))
        if self.rank == 0:
            self._finish()
        if self.world > 1:
            distributed.barrier()
        return self.history

    def epoch(self, epoch: int, total: int, bar: tqdm) -> dict[str, float]:
        """Train for one epoch; returns its record.

        Args:
            epoch: from 0.
            total: steps of the whole training.
            bar: updated at each step.

        Raises:
            ValueError: a loss or weights not finite.
        """
        config, started = self.config, time.perf_counter()
        generator = torch.Generator().manual_seed(hash((config.seed, epoch)))
        order = self.rows[torch.randperm(len(self.rows), generator=generator)]
        mine = order[: len(order) // config.batch_size * config.batch_size][self.rank :: self.world]
        drawn = torch.Generator(self.device).manual_seed(hash((config.seed, epoch, self.rank)))
        losses = torch.zeros((), device=self.device)
        # the first step with a non-finite loss
        failed = torch.full((), total, device=self.device)
        first = epoch * (len(self.rows) // config.batch_size)
        torch.manual_seed(hash((config.seed, epoch, self.rank)))  # dropout uses the global one
        self.network.train()
        for index, (images, labels) in enumerate(
            self.examples.batches(mine, config.batch_size // self.world), first
        ):
            images = augment(images, drawn)
            if config.eps:
                self.attacked.refresh()
                if index == first:
                    self._check(self.attacked, images)
                images = perturb(
                    self.attacked,
                    images,
                    labels,
                    eps=config.eps,
                    norm=config.norm,
                    steps=config.attack_steps,
                    generator=drawn,
                )
            for group in self.optimizer.param_groups:
                group["lr"] = config.learning_rate * one_cycle((index + 1) / total)
            x = ((images - self.mean) / self.std).to(memory_format=torch.channels_last)
            with torch.autocast(
                self.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"
            ):
                outputs = self.parallel(x)
            mean_loss = loss(outputs, labels)
            self.optimizer.zero_grad()
            mean_loss.backward()
            self.optimizer.step()
            _mix(self.average, self.network, 1 - min(config.average, (1 + index) / (10 + index)))
            losses += mean_loss.detach()
            failed = torch.where(mean_loss.isfinite(), failed, failed.clamp(max=index))
            if (
                index % STEPS_BETWEEN_LOSS_CHECKS == 0
                or index + 1 == first + len(self.rows) // config.batch_size
            ):
                if int(failed) < total:
                    raise ValueError(
                        f"the loss is not a number at step {int(failed) - first} of epoch "
                        f"{epoch + 1}; lower learning_rate; {self.output} contains the network "
                        f"after epoch {epoch}"
                    )
                bar.set_postfix_str(f"loss {float(mean_loss.detach()):.3f}")
            bar.update()
        if spoilt := not_finite({**self.network.state_dict(), **self.average.state_dict()}):
            raise ValueError(
                f"weights are not finite after epoch {epoch + 1}: {spoilt}; lower learning_rate; "
                f"{self.output} contains the network after epoch {epoch}"
            )
        trained = time.perf_counter() - started
        for buffer in [*self.network.buffers(), *self.average.buffers()] if self.world > 1 else []:
            distributed.broadcast(buffer, 0)
        clean, robust = self._score()
        steps = len(self.rows) // config.batch_size
        return {
            "epoch": epoch + 1,
            "loss": float(losses) / steps,
            "clean": clean,
            "robust": robust,
            "images_per_second": steps * config.batch_size / trained,
            "seconds": time.perf_counter() - started,
        }

    def _score(self) -> tuple[float, float]:
        """Clean and robust accuracy of the averaged weights on held-out images, percent."""
        config, right, robust = self.config, 0, 0
        self.scored.refresh()
        for i, rows in enumerate(self.held_out.split(config.batch_size)):
            images, labels = self.examples.take(rows)
            drawn = torch.Generator(self.device).manual_seed(i)
            if i == 0:
                self._check(self.scored, images)
            with torch.no_grad():
                right += int((self.scored(images).argmax(1) == labels).sum())
            if config.eps:
                images = perturb(
                    self.scored,
                    images,
                    labels,
                    eps=config.eps,
                    norm=config.norm,
                    steps=10,
                    generator=drawn,
                )
            with torch.no_grad():
                robust += int((self.scored(images).argmax(1) == labels).sum())
        return 100 * right / len(self.held_out), 100 * robust / len(self.held_out)

    def _check(self, copy: FoldedCopy, images: Tensor) -> None:
        """Check a folded copy, once per epoch; report a difference once."""
        if not copy.check(images) and not self.reported and self.rank == 0:
            kind = self.config.architecture
            tqdm.write(
                f"the folded copy of {kind} differs from it: the network itself is attacked, which "
                "is slower"
            )
            self.reported = True

    def _tensors(self) -> dict[str, Tensor]:
        """The tensors that the next step depends on, as views."""
        names = {id(parameter): name for name, parameter in self.network.named_parameters()}
        momenta = {
            f"momentum.{names[id(p)]}": state["momentum_buffer"]
            for p, state in self.optimizer.state.items()
            if state.get("momentum_buffer") is not None
        }
        networks = {"network": self.network, "average": self.average}
        return momenta | {
            f"{key}.{n}": t for key, net in networks.items() for n, t in net.state_dict().items()
        }

    def _save(self) -> None:
        note = {"config": dataclasses.asdict(self.config), "history": self.history}
        note |= {"data": self.data, "classes": list(self.classes)}
        try:
            self.output.mkdir(parents=True, exist_ok=True)
            save_tensors(self.state_file, self._tensors(), note)
            self._save_history()
        except OSError as error:
            what = error.strerror or error
            raise OSError(
                f"{self.output}: cannot write ({what}); the files there are the last good ones"
            ) from error

    def _save_history(self) -> None:
        lines = "".join(json.dumps(record) + "\n" for record in self.history)
        write_text(self.output / "metrics.jsonl", lines)

    def _restore(self) -> None:
        try:
            with safe_open(self.state_file, "pt") as file:
                note = json.loads(file.metadata()["nbhelpers"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            before, self.history = note["config"], note["history"]
        except (SafetensorError, TypeError, KeyError, ValueError) as error:
            raise ValueError(
                f"{self.state_file} is damaged ({error}); name another output"
            ) from error
        # through JSON, where tuples become lists
        now = json.loads(json.dumps(dataclasses.asdict(self.config)))
        before = {"start": ""} | before  # missing in states of earlier versions
        if other := {name: value for name, value in now.items() if before.get(name) != value}:
            changes = ", ".join(
                f"{name} {before.get(name)!r}, not {value!r}" for name, value in other.items()
            )
            raise ValueError(f"{self.output} contains a run with other settings: {changes}")
        check_data(note, self.data, self.classes, f"{self.output}: {self.config.dataset}")
        for key, network in (("network", self.network), ("average", self.average)):
            prefix = f"{key}."
            state = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
            try:
                network.load_state_dict(state)
            except RuntimeError as error:  # a state of a version that recorded no classes
                raise ValueError(
                    f"{self.output} contains a network with other outputs than the "
                    f"{len(self.classes)} classes that {self.config.dataset} has now; put its "
                    "classes back, or name another output"
                ) from error
        for name, parameter in self.network.named_parameters():
            if (momentum := tensors.get(f"momentum.{name}")) is not None:
                self.optimizer.state[parameter]["momentum_buffer"] = momentum.to(
                    parameter.device
                ).clone()

    def _finish(self) -> None:
        config = self.config
        self._save_history()  # its last line is missing after a stop between the two files
        about = Entry(
            name=self.output.name,
            file="",
            architecture=config.architecture,
            arguments=self.arguments,
            dataset=without_split(config.dataset),
            classes=self.classes,
            mean=tuple(round(float(v), 4) for v in self.mean.flatten()),
            std=tuple(round(float(v), 4) for v in self.std.flatten()),
            image_size=square(self.examples.shape[1:]),
            training=dataclasses.asdict(config)
            | {"code": code_version(), "torch": torch.__version__.split("+")[0]},
        )
        weights = halved(self.average.state_dict())
        save_checkpoint(self.output / "weights.safetensors", weights, about)
        try:
            from nbhelpers.figures.plots import curves
        except ImportError:
            print("no curve.png: matplotlib is not installed")
            return
        measures = {"clean": "clean", "robust": f"under PGD-10, ε = {config.eps:g}"}
        lines = {
            text: torch.tensor([record[key] for record in self.history])
            for key, text in measures.items()
        }
        figure = curves(
            [record["epoch"] for record in self.history],
            lines,
            xlabel="epoch",
            ylabel="held-out accuracy (%)",
        )
        with replacing(self.output / "curve.png") as temporary:
            figure.savefig(temporary, dpi=figure.dpi, format="png")


def check_data(note: Mapping[str, Any], data: str, classes: Sequence[str], what: str) -> None:
    """Check that a resumed run has the same data; earlier versions recorded none.

    Raises:
        ValueError: other classes, images or labels than in the run's note.
    """
    before = note.get("classes", list(classes))
    if before != list(classes):
        gone, new = (
            ", ".join(sorted(set(a) - set(b))) for a, b in ((before, classes), (classes, before))
        )
        changes = (
            "; ".join(filter(None, (new and f"new: {new}", gone and f"gone: {gone}")))
            or "another order"
        )
        raise ValueError(
            f"{what} has {len(classes)} classes, the run began with {len(before)} ({changes}); "
            "put them back, or name another output"
        )
    if note.get("data", data) != data:
        raise ValueError(
            f"{what} has other images than the run began with; put them back, or name another "
            "output"
        )


def one_cycle(progress: float) -> float:
    """Learning rate / its peak: linear warm-up for 1/5 of the steps, then a cosine to zero."""
    if progress < 0.2:
        return progress / 0.2
    return 0.5 * (1 + math.cos(math.pi * (progress - 0.2) / 0.8))


def code_version() -> str:
    """The source's commit, with "+" if modified; without git the installed version."""
    here = Path(__file__).parent
    try:
        git = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(
            git, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        try:
            return version("nbhelpers")
        except PackageNotFoundError:  # a copied folder
            return "unknown"


def _facts(
    config: Training, examples: Examples
) -> tuple[tuple[str, ...], list[float], list[float]]:
    """Class names, and mean and std per channel, of the manifest or else of 1,000 images."""
    names = class_names(config.dataset)
    try:
        known = dataset_facts(without_split(config.dataset))
        return names, list(known["mean"]), list(known["std"])
    except ValueError:
        images, _ = examples.take(torch.arange(0, examples.count, max(1, examples.count // 1000)))
        std, mean = torch.std_mean(images, (0, 2, 3))
        return names, mean.tolist(), std.clamp_min(1e-3).tolist()


@torch.no_grad()
def _mix(average: nn.Module, network: nn.Module, share: float) -> None:
    """Move the running mean `average` towards `network`, weights and statistics."""
    # shared tensors count once
    kinds = [(*net.parameters(), *net.buffers()) for net in (average, network)]
    pairs = list(zip(*kinds, strict=True))
    kept, new = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
    torch._foreach_lerp_(kept, new, share)  # on a GPU a few launches, not one per tensor
    for count, now in pairs:
        if not count.is_floating_point():
            count.copy_(now)
