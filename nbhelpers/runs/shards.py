"""Invert a data set, or visualize all components, in resumable shards on any executor.

    nbhelpers invert --dataset cifar10-test --checkpoint cifar10-l2-0.5 -o runs/inverted
    nbhelpers visualize --checkpoint cifar10-l2-0.5 --starts 4 -o runs/components

Start images depend only on the seed and the item's index, and batches start at multiples of the
batch size, so the shard size does not change the result.
"""

import functools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from nbhelpers.checkpoints.downloads import weights_sha256
from nbhelpers.checkpoints.finite import not_finite
from nbhelpers.data.images import count_images, identity, load_images
from nbhelpers.files import check_writable, save_tensors, write_text
from nbhelpers.networks.loading import load_model
from nbhelpers.networks.model import Model, Precision
from nbhelpers.objectives import activate, match
from nbhelpers.optimize import Solver, minimize
from nbhelpers.representation import noise
from nbhelpers.training.settings import as_python
from nbhelpers.types import two_sides

Kind = Literal["invert", "visualize"]
Sources = Mapping[str, str]  # "checkpoint" and "dataset" → a digest of the content


@dataclass(frozen=True)
class Settings:
    """The settings that determine the shards' content."""

    kind: Kind
    checkpoint: str  # name in checkpoints/manifest.toml, or a file
    dataset: str = ""  # for "invert": a name, or a folder of images
    starts: int = 1  # for "visualize": noise images per component
    steps: int = 200
    step_size: float | None = None  # as in `Solver`
    seed: int = 0
    batch_size: int = 64  # images per pass
    precision: Precision = "float32"  # of gradient passes, as in `load_model`

    def __post_init__(self) -> None:
        as_python(self)


def make_shards(
    settings: Settings,
    out: str | Path,
    executor: Executor | None = None,
    *,
    shard_size: int = 512,
    limit: int | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Make the missing shards, then the index.

    A shard is a safetensors file with `images` (uint8, n × 3 × h × w), `indices`, `loss`,
    `start_loss`, and `labels` (inversions) or `components` (visualizations, loss = minus the
    activation).

    Args:
        settings: of the content.
        out: folder for the shards and `index.json`, shared by all workers.
        executor: any `concurrent.futures.Executor` of processes; None for this process.
        shard_size: items per file, a multiple of the batch size.
        limit: number of items; None for all.
        device: auto, cpu, cuda or mps.

    Returns:
        The index: settings, totals, and the shards in order.

    Raises:
        ValueError: wrong settings, or a folder with shards of other settings.
        RuntimeError: some shards failed; the same call makes the missing ones.
    """
    if settings.batch_size < 1 or shard_size < 1 or shard_size % settings.batch_size:
        raise ValueError(
            f"shard_size: got {shard_size}, wanted a multiple of batch_size, {settings.batch_size}"
        )
    if settings.starts < 1 or (limit is not None and limit < 1):
        raise ValueError(f"starts and limit: got {settings.starts} and {limit}, wanted at least 1")
    count = min(limit or sys.maxsize, _count(settings))
    out = Path(out).resolve()
    check_writable(out)
    (out / ".locks").mkdir(exist_ok=True)
    made_from = _sources(settings)
    spans = [(first, min(first + shard_size, count)) for first in range(0, count, shard_size)]
    missing = [span for span in spans if not _is_made(settings, made_from, out, *span)]
    failures = []
    with tqdm(total=len(spans), initial=len(spans) - len(missing), unit="shard") as bar:
        for span, future in _submit(executor, (settings, made_from, out), missing, device):
            try:
                future.result()
            except Exception as error:  # of the shard, or of a dead worker
                failures.append(
                    f"images {span[0]} to {span[1] - 1}: {type(error).__name__}: {error}"
                )
                bar.write(f"failed: {failures[-1]}", file=sys.stderr)
            bar.update()
    if failures:
        raise RuntimeError(
            f"{len(failures)} of {len(spans)} shards failed, first {failures[0]}; run again to "
            "resume"
        )
    return _write_index(settings, made_from, out, spans)


def make_shard(
    settings: Settings, made_from: Sources, out: Path, span: tuple[int, int], device: str = "auto"
) -> None:
    """Make the shard of items [first, end) unless it exists; picklable, for executors.

    The file records the digests of images and weights.
    """
    first, end = span
    with FileLock(out / ".locks" / _file(first, end)):
        if _is_made(settings, made_from, out, first, end):
            return
        if weights_sha256(settings.checkpoint) != made_from["checkpoint"]:
            raise ValueError(
                f"{settings.checkpoint} is another file here than where the shards were begun"
            )
        model = _model(settings.checkpoint, device, settings.precision)
        batches = [
            _items(settings, model, torch.arange(i, min(i + settings.batch_size, end)))
            for i in range(first, end, settings.batch_size)
        ]
        tensors = {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}
        if spoilt := not_finite({"loss": tensors["loss"]}):
            raise ValueError(f"not finite: {spoilt}; look at the weights of {settings.checkpoint}")
        note = {"settings": asdict(settings), "made_from": dict(made_from)}
        save_tensors(out / _file(first, end), tensors, note)


def read_shards(folder: str | Path) -> Iterator[dict[str, Tensor]]:
    """The tensors of each shard, in order, one in memory at a time.

    Raises:
        ValueError: no index: the shards are incomplete.
    """
    folder = Path(folder)
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"no index.json in {folder}: nothing made here, or not yet complete"
        ) from error
    return (_read(folder / shard["file"]) for shard in index["shards"])


def _items(settings: Settings, model: Model, indices: Tensor) -> dict[str, Tensor]:
    """Invert or visualize a batch of items."""
    seeds = [(settings.seed << 32) + int(index) for index in indices]
    if settings.kind == "invert":
        images, labels = load_images(
            settings.dataset, indices=indices, size=model.image_size, channels=model.channels
        )
        with torch.no_grad():
            objective = match(model.representation(images.to(model.device)))
        size, extra = (images.shape[-2], images.shape[-1]), {"labels": labels}
    else:
        components = indices // settings.starts
        objective, extra = activate(components), {"components": components}
        size = two_sides(model.image_size or 32)
    start = torch.cat(
        [noise(1, size=size, channels=model.channels, seed=seed) for seed in seeds]
    ).to(model.device)
    result = minimize(
        model.representation,
        objective,
        start,
        steps=settings.steps,
        solver=Solver(step_size=settings.step_size),
    )
    pixels = (result.images * 255).round().to(torch.uint8).cpu()
    losses = {"loss": result.loss.cpu(), "start_loss": result.losses[0].cpu()}
    return {"indices": indices, "images": pixels, **losses, **extra}


def _submit(
    executor: Executor | None,
    what: tuple[Settings, Sources, Path],
    spans: Sequence[tuple[int, int]],
    device: str,
) -> Iterator[tuple[tuple[int, int], Future[None]]]:
    if executor is not None:
        futures = {executor.submit(make_shard, *what, span, device): span for span in spans}
        yield from ((futures[future], future) for future in as_completed(futures))
        return
    for span in spans:
        here: Future[None] = Future()
        try:
            make_shard(*what, span, device)
            here.set_result(None)
        except Exception as error:
            here.set_exception(error)
        yield span, here


def _count(settings: Settings) -> int:
    if settings.kind == "invert":
        return count_images(settings.dataset)
    return _model(settings.checkpoint, "cpu", settings.precision).components * settings.starts


def _sources(settings: Settings) -> Sources:
    """Digests of the checkpoint and the data set."""
    images = identity(settings.dataset) if settings.kind == "invert" else ""
    return {"checkpoint": weights_sha256(settings.checkpoint), "dataset": images}


def _is_made(settings: Settings, made_from: Sources, out: Path, first: int, end: int) -> bool:
    path = out / _file(first, end)
    if not path.exists():
        return False
    try:
        with safe_open(path, "pt") as file:
            note = json.loads(file.metadata()["nbhelpers"])
        # earlier versions recorded no digests
        made, sources = (note["settings"], note.get("made_from", made_from))
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is no shard of ours ({error}); delete it or choose another folder"
        ) from error
    if made != asdict(settings):
        changed = [
            f"{key} {made.get(key)!r}"
            for key, value in asdict(settings).items()
            if made.get(key) != value
        ]
        raise ValueError(f"{path} was made with {', '.join(changed)}; choose another folder")
    if other := [
        getattr(settings, key) for key, value in made_from.items() if sources.get(key) != value
    ]:
        raise ValueError(
            f"{path} was made with other contents of {' and '.join(other)}; choose another folder"
        )
    return True


def _write_index(
    settings: Settings, made_from: Sources, out: Path, spans: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    loss = torch.cat([_read(out / _file(*span), "loss")["loss"] for span in spans])
    index = {
        "settings": asdict(settings),
        "made_from": dict(made_from),
        "count": spans[-1][1],
        "mean_loss": loss.double().mean().item(),
        "shards": [
            {"file": _file(first, end), "first": first, "count": end - first}
            for first, end in spans
        ],
    }
    write_text(out / "index.json", json.dumps(index, indent=1))
    return index


def _read(path: Path, *keys: str) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in keys or file.keys()}


def _file(first: int, end: int) -> str:
    return f"shard-{first:08d}-{end - 1:08d}.safetensors"


def _model(checkpoint: str, device: str, precision: Precision) -> Model:
    return _loaded(checkpoint, weights_sha256(checkpoint), device, precision)


# Cached, as a worker makes many shards; a replaced file has another digest.
@functools.lru_cache(maxsize=1)
def _loaded(checkpoint: str, digest: str, device: str, precision: Precision) -> Model:
    return load_model(checkpoint, device=device, precision=precision)
