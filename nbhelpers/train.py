"""Robust optimisation, min over θ of E max over ‖δ‖ ≤ ε of the loss. Usage: python -m nbhelpers.train --eps 0.5"""

import argparse
import copy
import dataclasses
import json
import math
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import torch
from safetensors import safe_open
from torch import Tensor, distributed, fx, nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.fusion import fuse_conv_bn_weights
from tqdm import tqdm

from nbhelpers import checkpoints
from nbhelpers.data import class_names, count_images, load_images
from nbhelpers.models import build_network, dataset_facts, pick_device
from nbhelpers.objectives import misclassify
from nbhelpers.optimize import Projection, descend, l2_ball, l2_direction, linf_ball
from nbhelpers.resnet import BLOCKS, Downsample
from nbhelpers.types import Features, Images, Labels

Norm = Literal["l2", "linf"]
Precision = Literal["auto", "float32", "bfloat16"]
HELD_BYTES = 4 * 2**30  # a larger data set stays on the disk
LOOK = 20  # steps between looks at the loss, each of which waits for the device


@dataclass(frozen=True)
class Training:
    """What is trained, and how: all that a result depends on, but for the machine."""

    dataset: Annotated[str, "name, or a folder with one folder per class"] = "cifar10-train"
    architecture: Annotated[str, "resnet18, wide-resnet-16-4, torchvision:resnet50, …"] = "resnet18"
    width: Annotated[int, "channels of the first stage, of resnet18, resnet34 and resnet50"] = 16
    downsample: Annotated[Downsample, "of the same: maps are halved by a strided convolution, or by a mean"] = "pool"
    image_size: Annotated[int, "pixels; 0 for the images' own"] = 0
    norm: Annotated[Norm, "of the perturbation"] = "l2"
    eps: Annotated[float, "its largest length, pixels in [0, 1]; 0 for standard training"] = 0.5
    attack_steps: Annotated[int, "gradient steps of the inner maximisation"] = 2
    epochs: Annotated[int, "passes over the data"] = 14
    batch_size: Annotated[int, "images per step, over all processes"] = 128
    learning_rate: Annotated[float, "peak of the one-cycle schedule"] = 0.2
    momentum: Annotated[float, "of SGD, Nesterov's"] = 0.9
    weight_decay: Annotated[float, "of convolutions and the head"] = 5e-4
    average: Annotated[float, "share of the past in the running mean of the weights; 0 for none"] = 0.998
    precision: Annotated[Precision, "of the passes; weights are float32"] = "auto"
    held_out: Annotated[int, "training images kept apart, for the robust accuracy after each epoch"] = 500
    seed: Annotated[int, "of the weights, the held-out images, their order, and each perturbation's start"] = 0

    def __post_init__(self) -> None:
        for name, (kind, _) in _options().items():
            if get_args(kind) and getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name}: got {getattr(self, name)!r}, wanted one of {', '.join(get_args(kind))}")
        for name in ("width", "attack_steps", "epochs", "batch_size", "held_out"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, wanted at least 1")
        if not (0 <= self.eps < math.inf and 0 < self.learning_rate < math.inf and self.weight_decay >= 0):
            raise ValueError("eps, learning_rate, weight_decay: wanted finite numbers, not negative")
        if not (0 <= self.average < 1 and 0 <= self.momentum < 1):
            raise ValueError("average, momentum: wanted 0 to below 1")


def _options() -> dict[str, tuple[Any, str]]:
    """Name → type and meaning of each setting."""
    return {name: get_args(hint) for name, hint in get_type_hints(Training, include_extras=True).items()}


def perturb(
    f: Callable[[Images], Features],
    images: Images,
    labels: Labels,
    *,
    eps: float,
    norm: Norm = "l2",
    steps: int = 2,
    generator: torch.Generator | None = None,
) -> Images:
    """The inner maximisation: images within `eps` of `images` on which the classifier's loss is high.

    Args:
        f: images → logits (n, classes).
        images: (n, c, h, w), pixels in [0, 1].
        labels: (n,) class indices.
        eps: largest length of the change, in pixel units.
        norm: "l2" or "linf".
        steps: of projected gradient ascent, 2.5·eps / steps each, from a random point of the ball.
        generator: of that point, on the images' device.

    Source: PGD of Madry et al., arXiv:1706.06083.
    """
    noise = torch.empty_like(images)
    project: Projection
    direction: Callable[[Images], Images]
    if norm == "l2":
        noise = l2_direction(noise.normal_(generator=generator)) * eps
        project, direction = l2_ball(images, eps), l2_direction
    else:
        noise = noise.uniform_(-eps, eps, generator=generator)
        project, direction = linf_ball(images, eps), torch.sign
    iterates = descend(
        f,
        misclassify(labels),
        project(images + noise),
        steps=steps,
        step_size=2.5 * eps / steps,
        momentum=0,
        schedule="constant",
        project=project,
        direction=direction,
        batch_size=len(images),
        score_last=False,
    )
    return [step.images for step in iterates][-1]


class Attacked:
    """The network in eval mode as the attack sees it: batch norm folded, in the passes' own precision.

    A network that cannot be traced is attacked as it is.
    """

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor, dtype: torch.dtype):
        self.network, self.mean, self.std, self.dtype = network, mean, std, dtype
        self.pairs: list[tuple[Any, Any, Any]] = []  # convolution, its norm, both folded
        self.twin: nn.Module | None = None
        was, modules = network.training, dict(network.named_modules())
        network.eval()
        try:
            traced = fx.symbolic_trace(network)
            names = [
                (str(node.args[0].target), str(node.target))
                for node in traced.graph.nodes
                if isinstance(modules.get(str(node.target)), nn.BatchNorm2d)
                and isinstance(modules.get(str(node.args[0].target)), nn.Conv2d)
                and len(node.args[0].users) == 1
            ]
            twin = fuse(traced, no_trace=True).requires_grad_(False)
            if not any(isinstance(module, nn.BatchNorm2d) for module in twin.modules()):
                self.twin = twin.to(mean.device, dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
                self.pairs = [(modules[conv], modules[norm], twin.get_submodule(conv)) for conv, norm in names]
        except (TypeError, AttributeError, RuntimeError, fx.proxy.TraceError):  # control flow the tracer cannot follow
            pass
        network.train(was)

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the network's weights and running statistics as they are now."""
        if self.twin is None:
            return
        for conv, norm, folded in self.pairs:
            weight, bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            folded.weight.copy_(weight)
            folded.bias.copy_(bias)
        own = dict(self.network.named_parameters())
        done = {id(parameter) for _, _, folded in self.pairs for parameter in folded.parameters()}
        for name, parameter in self.twin.named_parameters():
            if id(parameter) not in done:
                parameter.copy_(own[name])

    def __call__(self, images: Images) -> Features:
        """Logits of pixels in [0, 1]."""
        x = ((images - self.mean) / self.std).to(memory_format=torch.channels_last)
        if self.twin is not None:
            return self.twin(x.to(self.dtype)).float()
        was = self.network.training
        self.network.eval()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            logits = self.network(x)
        self.network.train(was)
        return logits.float()


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by up to an eighth of its side and flip every other one at random.

    Args:
        images: (n, c, h, w) of any type; what a shift uncovers is black.
        generator: on the images' device.
    """
    n, _, height, width = images.shape
    pad = height // 8
    padded = functional.pad(images, (pad, pad, pad, pad)).movedim(1, 3)

    def draw(most: int) -> Tensor:
        return torch.randint(most, (n, 1), generator=generator, device=images.device)

    rows = draw(2 * pad + 1) + torch.arange(height, device=images.device)
    across = torch.arange(width, device=images.device)
    columns = draw(2 * pad + 1) + torch.where(draw(2) == 1, across.flip(0), across)
    which = torch.arange(n, device=images.device)[:, None, None]
    return padded[which, rows[:, :, None], columns[:, None, :]].movedim(3, 1)


class Examples:
    """A labelled data set, as bytes on the device where it fits, else read from the disk ahead of its use."""

    def __init__(self, source: str, size: int, device: torch.device, workers: int):
        self.source, self.device, self.workers = source, device, workers
        first, _ = load_images(source, indices=[0], size=size or None)
        self.count, self.shape, self.size = count_images(source), tuple(first.shape[1:]), size or None
        self.held: tuple[Tensor, Tensor] | None = None
        if self.count * first[0].numel() <= HELD_BYTES:
            pixels, labels = load_images(source, size=self.size)
            self.held = pixels.mul_(255).round_().byte().to(device), labels.to(device)

    def take(self, rows: Tensor) -> tuple[Images, Labels]:
        """Pixels in [0, 1] and labels of these rows."""
        if self.held is not None:
            rows = rows.to(self.device)
            return self.held[0][rows].float() / 255, self.held[1][rows]
        images, labels = load_images(self.source, indices=rows.tolist(), size=self.size)
        return images.to(self.device), labels.to(self.device)

    def batches(self, rows: Tensor, size: int) -> Iterator[tuple[Images, Labels]]:
        """The rows in batches of `size`; what is left over is dropped."""
        parts = [part for part in rows.split(size) if len(part) == size]
        if self.held is not None:
            yield from map(self.take, parts)
            return
        with ThreadPoolExecutor(self.workers) as pool:
            ahead = [pool.submit(self.take, part) for part in parts[: self.workers + 1]]
            for place in range(len(parts)):
                batch = ahead.pop(0).result()
                if place + self.workers + 1 < len(parts):
                    ahead.append(pool.submit(self.take, parts[place + self.workers + 1]))
                yield batch


def train(
    config: Training, output: str | os.PathLike[str], *, resume: bool = False, device: str = "auto", workers: int = 2
) -> list[dict[str, float]]:
    """Train a network; after each epoch all that is needed to go on stands in `output`.

    There are written: `state.safetensors` (to go on from), `metrics.jsonl` (a line per epoch), and at the end
    `weights.safetensors` (half precision, the averaged weights; `load_model` takes it) and `curve.png`. Under
    `torchrun` each process takes its share of every batch.

    Args:
        config: what is trained, and how.
        output: a folder.
        resume: go on from what stands there, if anything does; the result is that of an uninterrupted run.
        device: auto, cpu, cuda or mps.
        workers: threads that read images ahead, for a data set too large for memory.

    Returns:
        Per epoch: loss, clean and robust accuracy of held-out images in percent, images/s, seconds.

    Raises:
        ValueError: settings that do not fit the data, an output of other settings, or a loss that is not a number.
        FileExistsError: `output` holds a run already, and `resume` is not set.
        OSError: the disk is full, say; the last epoch's files are whole.

    Source: Madry et al., arXiv:1706.06083, equation (2.1).
    """
    return _Run(config, Path(output), resume, device, workers).epochs()


class _Run:
    """One process's part of a training."""

    def __init__(self, config: Training, output: Path, resume: bool, device: str, workers: int):
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.device = pick_device(device)
        if self.device.type == "cuda":
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
            torch.cuda.set_device(self.device)
        if self.world > 1 and not distributed.is_initialized():
            distributed.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        if config.precision == "auto":
            config = dataclasses.replace(config, precision=_best_precision(self.device))
        self.config, self.output = config, output
        self.state_file = output / "state.safetensors"
        if self.state_file.exists() and not resume:
            raise FileExistsError(f"{output} holds a run already; resume it, or name another output")
        self.examples = Examples(config.dataset, config.image_size, self.device, workers)
        order = torch.randperm(self.examples.count, generator=torch.Generator().manual_seed(config.seed))
        self.held_out, self.rows = order[: config.held_out], order[config.held_out :].sort().values
        if len(self.rows) < config.batch_size or config.batch_size % self.world:
            raise ValueError(
                f"batch_size: got {config.batch_size}, wanted at most the {len(self.rows)} images that "
                f"{config.held_out} held-out ones leave, and a multiple of the {self.world} processes"
            )
        labels = self.examples.held[1] if self.examples.held else torch.zeros(1)
        if int(labels.min()) < 0:
            raise ValueError(f"dataset: {config.dataset} has images without a label; wanted one folder per class")
        _warn(config, self.examples.shape)
        self.classes, mean, std = _facts(config, self.examples)
        self.mean, self.std = (torch.tensor(v, device=self.device)[:, None, None] for v in (mean, std))
        torch.manual_seed(config.seed)
        network = build_network(config.architecture, len(self.classes), _arguments(config))
        self.network: Any = network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.network.parameters() if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in self.network.parameters() if p.ndim == 1]},
        ]
        self.optimizer = torch.optim.SGD(
            groups,
            lr=config.learning_rate,
            momentum=config.momentum,
            nesterov=config.momentum > 0,
        )
        self.history: list[dict[str, float]] = []
        if self.state_file.exists():
            self._restore()
        dtype = getattr(torch, config.precision)
        self.attacked = Attacked(self.network, self.mean, self.std, dtype)
        self.scored = Attacked(self.average, self.mean, self.std, dtype)
        self.parallel = DistributedDataParallel(self.network) if self.world > 1 else self.network

    def epochs(self) -> list[dict[str, float]]:
        per_epoch = len(self.rows) // self.config.batch_size
        total = self.config.epochs * per_epoch
        bar = tqdm(total=total, initial=len(self.history) * per_epoch, unit="step", disable=self.rank > 0 or None)
        with bar:
            for epoch in range(len(self.history), self.config.epochs):
                record = self._epoch(epoch, total, bar)
                self.history.append(record)
                if self.rank == 0:
                    self._save()
                    bar.write(" ".join(f"{name} {value:.4g}" for name, value in record.items()))
        if self.rank == 0:
            self._finish()
        if self.world > 1:
            distributed.barrier()
        return self.history

    def _epoch(self, epoch: int, total: int, bar: tqdm) -> dict[str, float]:
        config, started = self.config, time.perf_counter()
        generator = torch.Generator().manual_seed(hash((config.seed, epoch)))
        order = self.rows[torch.randperm(len(self.rows), generator=generator)]
        mine = order[: len(order) // config.batch_size * config.batch_size][self.rank :: self.world]
        drawn = torch.Generator(self.device).manual_seed(hash((config.seed, epoch, self.rank)))
        losses = torch.zeros((), device=self.device)
        failed = torch.full((), total, device=self.device)  # the first step whose loss is not a number
        first = epoch * (len(self.rows) // config.batch_size)
        self.network.train()
        for index, (images, labels) in enumerate(self.examples.batches(mine, config.batch_size // self.world), first):
            images = augment(images, drawn)
            if config.eps:
                self.attacked.refresh()
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
            with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                logits = self.parallel(x)
            loss = functional.cross_entropy(logits.float(), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            _mix(self.average, self.network, 1 - min(config.average, (1 + index) / (10 + index)))
            losses += loss.detach()
            failed = torch.where(loss.isfinite(), failed, failed.clamp(max=index))
            if index % LOOK == 0 or index + 1 == first + len(self.rows) // config.batch_size:
                if int(failed) < total:
                    raise ValueError(
                        f"the loss is not a number at step {int(failed) - first} of epoch {epoch + 1}; lower "
                        f"learning_rate; {self.output} holds the network after epoch {epoch}"
                    )
                bar.set_postfix_str(f"loss {float(loss.detach()):.3f}")
            bar.update()
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
        """Clean and robust accuracy of the averaged weights on held-out images, in percent."""
        config, right, stood = self.config, 0, 0
        self.scored.refresh()
        for i, rows in enumerate(self.held_out.split(config.batch_size)):
            images, labels = self.examples.take(rows)
            drawn = torch.Generator(self.device).manual_seed(i)
            with torch.no_grad():
                right += int((self.scored(images).argmax(1) == labels).sum())
            if config.eps:
                images = perturb(
                    self.scored, images, labels, eps=config.eps, norm=config.norm, steps=10, generator=drawn
                )
            with torch.no_grad():
                stood += int((self.scored(images).argmax(1) == labels).sum())
        return 100 * right / len(self.held_out), 100 * stood / len(self.held_out)

    def _tensors(self) -> dict[str, Tensor]:
        """All that the next step depends on, as views."""
        names = {id(parameter): name for name, parameter in self.network.named_parameters()}
        momenta = {
            f"momentum.{names[id(p)]}": state["momentum_buffer"]
            for p, state in self.optimizer.state.items()
            if state.get("momentum_buffer") is not None
        }
        networks = {"network": self.network, "average": self.average}
        return momenta | {f"{key}.{n}": t for key, net in networks.items() for n, t in net.state_dict().items()}

    def _save(self) -> None:
        note = {"config": dataclasses.asdict(self.config), "history": self.history}
        try:
            self.output.mkdir(parents=True, exist_ok=True)
            checkpoints.save_tensors(self.state_file, self._tensors(), note)
            lines = "".join(json.dumps(record) + "\n" for record in self.history)
            checkpoints.write_text(self.output / "metrics.jsonl", lines)
        except OSError as error:
            what = error.strerror or error
            raise OSError(f"{self.output}: cannot write ({what}); the files there are the last good ones") from error

    def _restore(self) -> None:
        with safe_open(self.state_file, "pt") as file:
            note = json.loads(file.metadata()["nbhelpers"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        other = {
            name: value for name, value in dataclasses.asdict(self.config).items() if note["config"].get(name) != value
        }
        if other:
            told = ", ".join(f"{name} {note['config'].get(name)!r}, not {value!r}" for name, value in other.items())
            raise ValueError(f"{self.output} holds a run of other settings: {told}")
        for key, network in (("network", self.network), ("average", self.average)):
            prefix = f"{key}."
            network.load_state_dict({k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)})
        for name, parameter in self.network.named_parameters():
            if (momentum := tensors.get(f"momentum.{name}")) is not None:
                self.optimizer.state[parameter]["momentum_buffer"] = momentum.to(parameter.device).clone()
        self.history = note["history"]

    def _finish(self) -> None:
        config = self.config
        about = checkpoints.Entry(
            name=self.output.name,
            file="",
            architecture=config.architecture,
            arguments=_arguments(config),
            dataset=_set(config.dataset),
            classes=self.classes,
            mean=tuple(round(float(v), 4) for v in self.mean.flatten()),
            std=tuple(round(float(v), 4) for v in self.std.flatten()),
            image_size=self.examples.shape[1],
            training=dataclasses.asdict(config) | {"code": code_version(), "torch": torch.__version__.split("+")[0]},
        )
        half = {k: t.half() if t.is_floating_point() else t for k, t in self.average.state_dict().items()}
        checkpoints.save_checkpoint(self.output / "weights.safetensors", half, about)
        try:
            from nbhelpers.plots import curves
        except ImportError:
            print("no curve.png: matplotlib is not installed")
            return
        measures = {"clean": "clean", "robust": f"under PGD-10, ε = {config.eps:g}"}
        lines = {text: torch.tensor([record[key] for record in self.history]) for key, text in measures.items()}
        figure = curves(
            [record["epoch"] for record in self.history], lines, xlabel="epoch", ylabel="held-out accuracy (%)"
        )
        figure.savefig(self.output / "curve.png", dpi=figure.dpi)


def one_cycle(progress: float) -> float:
    """Learning rate as a share of its peak: up in a straight line for a fifth of the steps, then a cosine to zero."""
    if progress < 0.2:
        return progress / 0.2
    return 0.5 * (1 + math.cos(math.pi * (progress - 0.2) / 0.8))


def code_version() -> str:
    """The commit of this package's source, with "+" where it was altered since; its version where there is no git."""
    here = Path(__file__).parent
    try:
        git = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return version("nbhelpers")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m nbhelpers.train", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    for name, (kind, meaning) in _options().items():
        default = getattr(Training, name)
        flag, choices = f"--{name.replace('_', '-')}", get_args(kind) or None
        parser.add_argument(flag, type=type(default), default=default, choices=choices, help=meaning)
    parser.add_argument("--output", type=Path, help="folder; default: runs/train/<data set>-<norm>-<eps>")
    parser.add_argument("--resume", action="store_true", help="go on from what stands in the output")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--workers", type=int, default=2, help="threads that read a data set too large for memory")
    parser.add_argument("--publish", metavar="NAME", help="put the weights into checkpoints/ and its manifest too")
    args = parser.parse_args(argv)
    try:
        config = Training(**{name: getattr(args, name) for name in _options()})
        kind = f"{config.norm}-{config.eps:g}" if config.eps else "standard"
        output = args.output or Path("runs/train") / f"{Path(_set(config.dataset)).name}-{kind}"
        train(config, output, resume=args.resume, device=args.device, workers=args.workers)
        if args.publish and int(os.environ.get("RANK", 0)) == 0:
            weights = checkpoints.read_weights(output / "weights.safetensors")
            assert weights.entry is not None
            half = {k: t.half() if t.is_floating_point() else t for k, t in weights.state.items()}
            checkpoints.save_checkpoint(args.publish, half, weights.entry)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped; go on with --resume --output {output}", file=sys.stderr)
        return 130
    return 0


def _best_precision(device: torch.device) -> Precision:
    """bfloat16 where the machine computes in it, so that nothing is lost but digits."""
    native = {"cuda": lambda: torch.cuda.is_bf16_supported(), "cpu": torch.cpu._is_avx512_bf16_supported}
    return "bfloat16" if native.get(device.type, lambda: False)() else "float32"


def _warn(config: Training, shape: tuple[int, ...]) -> None:
    diameter = math.sqrt(math.prod(shape))
    if config.norm == "l2" and config.eps > 0.03 * diameter:
        usual = "0.25, 0.5 and 1 at 3×32×32 (spans 55.4), 3 at 3×224×224 (388)"
    elif config.norm == "linf" and config.eps > 16 / 255:
        usual = "8/255 = 0.031 at 3×32×32, 4/255 at 3×224×224"
    else:
        return
    warnings.warn(
        f"eps {config.eps:g} in {config.norm} is large for images that span {diameter:.1f}: the network may learn "
        f"nothing. Published values: {usual}",
        stacklevel=2,
    )


def _arguments(config: Training) -> dict[str, Any]:
    """What the architecture takes besides its name."""
    return {"width": config.width, "downsample": config.downsample} if config.architecture in BLOCKS else {}


def _set(dataset: str) -> str:
    """The data set that a split belongs to: cifar10 of cifar10-train."""
    return dataset.removesuffix("-train").removesuffix("-sample").removesuffix("-test").removesuffix("-val")


def _facts(config: Training, examples: Examples) -> tuple[tuple[str, ...], list[float], list[float]]:
    """Class names, and each channel's mean and standard deviation: the manifest's, else of 1,000 images."""
    names = class_names(config.dataset)
    try:
        known = dataset_facts(_set(config.dataset))
        return names, list(known["mean"]), list(known["std"])
    except ValueError:
        images, _ = examples.take(torch.arange(0, examples.count, max(1, examples.count // 1000)))
        std, mean = torch.std_mean(images, (0, 2, 3))
        return names, mean.tolist(), std.clamp_min(1e-3).tolist()


@torch.no_grad()
def _mix(average: nn.Module, network: nn.Module, share: float) -> None:
    """Move `average` towards `network`, weights and running statistics."""
    for kept, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        kept.lerp_(new, share) if kept.is_floating_point() else kept.copy_(new)


if __name__ == "__main__":
    sys.exit(main())
