"""Readers of checkpoints that never run pickled code."""

import errno
import gzip
import json
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from nbhelpers.checkpoints import pickles
from nbhelpers.checkpoints.entries import Entry, entry_of

_STATE_KEYS: tuple[str, ...] = (
    "model",
    "state_dict",
    "model_state_dict",
    "net",
    "network",
    "weights",
    "last",
)
_STATE_KEYS += (
    "model_ema",
    "state_dict_ema",
    "ema_state_dict",
    "model_ema_state_dict",
    "ema",
    "ema_model",
)
_STATE_KEYS += ("params_ema",)

# What stands beside a network's weights and is not the network: losses, metrics, counters, copies,
# and the block of TRADES' wide ResNets that no pass uses.
_BESIDE = re.compile(
    r"(criterion|loss|loss_fn|loss_func|loss_function|metrics?|(train|val|valid|test)_\w+|accuracy|acc|ema|model_ema"
    r"|ema_model|teacher|optimizer|sub_block1)\..*|n_averaged|step|epoch|(.*\.)?total_(ops|params)"
)

_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".tar")


# Buffers of a normalising layer, as robustness, robust-models-transfer and RobustBench name them.
_NORMALIZER = re.compile(
    r"(?:attacker\.|model\.|0\.|normali[sz]er?\.)*(?:new_)?(mean|std|mu|sigma)"
)


_DAMAGE = (
    *(
        ValueError,
        TypeError,
        IndexError,
        KeyError,
        EOFError,
        OverflowError,
        OSError,
        RuntimeError,
        MemoryError,
    ),
    *(zipfile.BadZipFile, zlib.error, struct.error, safetensors.SafetensorError),
)


@dataclass(frozen=True)
class Weights:
    """A network's state dict under its bare keys, and the normalisation its file carries."""

    state: dict[str, Tensor]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    report: str  # which keys went where, what was dropped or stubbed; print it
    scales: Mapping[str, Tensor]  # mean and std by their own keys
    entry: Entry | None = None  # written into the file by `save_checkpoint`


def text_instead(head: bytes, content_type: str = "") -> str:
    """What is wrong with a file that begins like this; "" where nothing is seen."""
    if head.startswith((b"PK", b"\x80")):  # whatever the server calls it
        return ""
    start = head[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if (
        start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head"))
        or "text/html" in content_type.lower()
    ):
        return "an HTML page in place of weights; the link is dead, or wants a browser"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer in place of weights; fetch the file itself (git lfs pull)"
    return "" if start else "an empty file"


def read_weights(path: str | Path | Sequence[str | Path], inside: str = "") -> Weights:
    """Read a checkpoint without running any code in it.

    Files of torch.save (old and new, pickled with dill or not) and of safetensors; a .zip or .gz
    around one; shards, as a list or by their index.json. Keys lose `module.`, `model.` and the
    attacker's copies of the weights; buffers of a normalizer become mean and std; floats of any
    kind become float32.

    Args:
        path: a file, or the files of a sharded checkpoint.
        inside: which of several networks in it: a key of its table ("state_dict_ema"), or what its
            keys begin with.

    Raises:
        ValueError: not a checkpoint, damaged, or holding two different networks.
        OSError: the file is not there or cannot be opened.
    """
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(one) for one in path]
    if len(paths) == 1 and paths[0].suffix == ".json":
        paths = _shards(paths[0])
    raw: dict[str, Tensor] = {}
    report: list[str] = []
    embedded: dict[str, Any] = {}
    scales: dict[str, Tensor] = {}
    for one in paths:
        try:
            state, notes, embedded = _open(one, inside=inside)
        except _DAMAGE as error:
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise  # not there, not allowed: nothing about its content
            reason = f"{error}".splitlines()[0][:300] if f"{error}" else type(error).__name__
            raise ValueError(f"{one} cannot be read as a checkpoint: {reason}") from None
        if twice := raw.keys() & state.keys():
            raise ValueError(f"{one}: {min(twice)[:80]!r} stands in another shard too")
        raw |= state
        report += notes
    try:
        # A file of ours has the network's own keys, whatever they begin with.
        state, mean, std, notes = (
            (_floats(raw), None, None, []) if embedded else _remap(raw, scales)
        )
    except ValueError as error:
        raise ValueError(f"{paths[0]}: {error}") from None
    kept = None
    if embedded:
        report += [str(embedded.pop("report", ""))]
        try:
            kept = entry_of(str(embedded.get("name", "")), embedded)
        except ValueError as error:
            raise ValueError(f"{paths[0]}: {error}") from None
        mean, std = mean or kept.mean or None, std or kept.std or None
    return Weights(state, mean, std, "\n  ".join(filter(None, report + notes)), scales, kept)


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if any(Path(name).name != name for name in names):
            raise ValueError("a shard outside its folder")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index} is not an index of shards: {error}") from None
    return [index.parent / name for name in names]


def _open(
    path: Path, nested: bool = False, inside: str = ""
) -> tuple[dict[str, Tensor], list[str], dict[str, Any]]:
    """The tensors of one file by their own keys, a report of it, and the note safetensors carry."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(512)
        if text := text_instead(head):
            raise ValueError(text)
        if head[8:9] == b"{":
            return _open_safetensors(path, inside)
        if head.startswith(b"PK"):
            with zipfile.ZipFile(file) as archive:
                members = [
                    m for m in archive.infolist() if not m.is_dir() and "__MACOSX" not in m.filename
                ]
                _refuse_bombs(members, size)
                inner = [m for m in members if m.filename.endswith(_SUFFIXES)]
                if len(inner) == 1 and not nested:
                    with archive.open(inner[0]) as source:
                        return _unpacked(
                            path, source, inner[0].filename, _unpacked_limit(size), inside
                        )
                return _choose(path, pickles.read_zip(archive), inside)
        file.seek(0)
        if head.startswith(b"\x1f\x8b") and not nested:
            with gzip.open(file) as source:
                return _unpacked(path, source, path.stem, _unpacked_limit(size), inside)
        if head.startswith(b"\x80") or head[:1] in b"(]}c":
            return _choose(path, pickles.read_legacy(file, size), inside)
    raise ValueError("neither a file of torch.save nor safetensors")


def _open_safetensors(
    path: Path, inside: str
) -> tuple[dict[str, Tensor], list[str], dict[str, Any]]:
    with safetensors.safe_open(path, "pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        note = json.loads((file.metadata() or {}).get("nbhelpers", "{}"))
    if not isinstance(note, dict):
        raise ValueError("its metadata is not that of nbhelpers")
    state = _under(state, inside) if inside else state
    return state, [f"{path.name}: safetensors, {len(state)} tensors"], note


def _under(state: dict[str, Any], inside: str) -> dict[str, Any]:
    """What stands under a prefix, without it."""
    prefix = inside.removesuffix(".") + "."
    found = {
        key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)
    }
    if not found:
        near = sorted({key.partition(".")[0] for key in state})
        raise ValueError(f"no network under {inside!r}; its keys begin with {', '.join(near[:12])}")
    return found


def _unpacked_limit(size: int) -> int:
    return max(64 << 20, 20 * size)  # weights hardly compress; what grows more is a bomb


def _refuse_bombs(members: list[zipfile.ZipInfo], size: int) -> None:
    stored = sum(m.file_size for m in members if m.compress_type == zipfile.ZIP_STORED)
    if any(m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for m in members):
        raise ValueError("a zip file of an unusual compression")
    if stored > size or sum(m.file_size for m in members) > _unpacked_limit(size):
        raise ValueError(f"it would unpack to far more than its {size} bytes")


def _unpacked(
    path: Path, source: Any, name: str, limit: int, inside: str
) -> tuple[dict[str, Tensor], list[str], dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        inner = Path(folder) / (Path(name).name or "checkpoint")
        with open(inner, "wb") as file:
            while chunk := source.read(1 << 20):
                if file.tell() + len(chunk) > limit:
                    raise ValueError(f"it would unpack to more than {limit} bytes")
                file.write(chunk)
        state, report, note = _open(inner, nested=True, inside=inside)
        return state, [f"{path.name}: compressed", *report], note


def _choose(
    path: Path, content: pickles.Content, inside: str = ""
) -> tuple[dict[str, Tensor], list[str], dict[str, Any]]:
    """Find the state dict in what a pickle held."""
    top = (
        content.top.items or content.top.state
        if isinstance(content.top, pickles.Inert)
        else content.top
    )
    table = _unfolded(top) if isinstance(top, dict) else {}
    usual = [
        key for name in _STATE_KEYS for key in table if key == name or key.endswith(f".{name}")
    ]
    keys = [inside] if inside in table else usual
    found, where = next(
        ((state, key) for key in keys if (state := _flat(table.get(key)))), (_flat(content.top), "")
    )
    if not found:  # under a key that nobody else uses
        states = {key: state for key, value in table.items() if (state := _flat(value))}
        if len(states) > 1:
            raise ValueError(
                f"several state dicts, {', '.join(states)}; choose one with #KEY after the file's "
                "name"
            )
        where, found = next(iter(states.items()), ("", {}))
    if inside and where != inside:
        found, where = _under(found, inside), inside
    if not found:
        raise ValueError(f"a {content.kind} without a state dict{_not_run(content)}")
    report = [
        f"{path.name}: {content.kind}, {len(found)} tensors"
        + (f" under {where!r}" if where else "")
    ]
    if where:
        others = [_scalar(key, value) for key, value in table.items() if key != where]
        report += [f"left aside: {', '.join(others[:20])}"] if others else []
    if content.inert:
        report += [_not_run(content).removeprefix("; ")]
    return content.tensors(found), report, {}


def _unfolded(table: dict[Any, Any]) -> dict[str, Any]:
    """A file's table; where a part of it is a table in turn, that one's parts too:
    "state.model", say.
    """
    parts = {f"{key}": value for key, value in table.items()}
    inner = {
        key: value for key, value in parts.items() if isinstance(value, dict) and not _flat(value)
    }
    return parts | {
        f"{outer}.{key}": value for outer, part in inner.items() for key, value in part.items()
    }


def _not_run(content: pickles.Content) -> str:
    names = sorted(ascii(name)[1:-1] for name in content.inert)
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"; named in the file and not run: {', '.join(names[:20])}{more}" if names else ""


def _scalar(key: object, value: object) -> str:
    short = isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 53)
    return f"{key!s:.40} = {value}" if short else f"{key!s:.40}"


def _flat(top: object) -> dict[str, pickles.Stored]:
    """The tensors of a state dict, or of a module that was pickled whole.

    Shared and nested parts can make a small file look endless, hence the limits.
    """
    flat, todo, visits = {}, [("", top, 0)], 0
    while todo:
        prefix, value, depth = todo.pop()
        if isinstance(value, pickles.Inert):
            value = value.items or value.state
            if isinstance(value, dict):
                parts = (value.get(name) for name in ("_parameters", "_buffers", "_modules"))
                value = {
                    key: one
                    for part in (value, *parts)
                    if isinstance(part, dict)
                    for key, one in part.items()
                }
        elif depth:
            continue
        for key, one in value.items() if isinstance(value, dict) else ():
            visits += 1
            if visits > 200_000 or len(prefix) + len(str(key)) > 500:
                raise ValueError("its state dict is larger than any network's")
            if isinstance(one, pickles.Stored):
                flat[f"{prefix}{key}"] = one
            elif isinstance(one, pickles.Inert):
                todo.append((f"{prefix}{key}.", one, depth + 1))
    return flat


def _remap(
    raw: dict[str, Tensor], own: dict[str, Tensor]
) -> tuple[dict[str, Tensor], Any, Any, list[str]]:
    """Bare keys, mean and std from a checkpoint's own keys, and a report of it; `own` takes mean
    and std by key.
    """
    state: dict[str, Tensor] = {}
    copies: dict[str, Tensor] = {}
    scales: dict[str, Tensor] = {}
    report = []
    for key, tensor in raw.items():
        if len(key) > 500:
            raise ValueError("a key longer than any network's")
        bare = key
        while bare.startswith(("module.", "_orig_mod.")):  # of DataParallel, of torch.compile
            bare = bare.partition(".")[2]
        bare = bare.replace("._orig_mod.", ".")  # of a part that was compiled
        if (match := _NORMALIZER.fullmatch(bare)) and tensor.numel() in (1, 3):
            kind = "mean" if match[1] in ("mean", "mu") else "std"
            if kind in scales and not torch.equal(scales[kind], tensor.flatten().float()):
                raise ValueError(f"it holds two different values of {kind}")
            scales[kind] = own[bare] = tensor.flatten().float()
            report.append(f"{key} -> {kind} {tuple(round(x, 4) for x in scales[kind].tolist())}")
            continue
        group = copies if bare.startswith("attacker.") else state
        bare = bare.removeprefix("attacker.")
        if bare in group:
            raise ValueError(f"two tensors for the key {bare[:80]!r}")
        group[bare] = tensor
    dropped = []
    for group in (state, copies):
        while group and all(key.startswith("model.") for key in group):
            for key in list(group):
                group[key.removeprefix("model.")] = group.pop(key)
    for key, tensor in copies.items():
        if key not in state or not _same(state[key], tensor):
            raise ValueError(
                f"the attacker's copy of {key[:80]!r} is not the model's; which network is it?"
            )
        dropped.append(key)
    if not state:
        raise ValueError("no weights but a normalizer's")
    example = next(iter(state))
    was = next((key for key in raw if key.endswith(example) and "attacker." not in key), example)
    report.append(
        f"{was.removesuffix(example)}* -> *, {len(state)} tensors"
        if was != example
        else "keys as they were"
    )
    if dropped:
        report.append(f"attacker's copies, equal to the model's and dropped: {len(dropped)}")
    for kind in {
        str(t.dtype) for t in state.values() if t.is_floating_point() and t.dtype != torch.float32
    }:
        report.append(f"{kind.removeprefix('torch.')} -> float32")
    mean, std = (
        tuple(scales[kind].tolist()) if kind in scales else None for kind in ("mean", "std")
    )
    return _floats(state), mean, std, report


def choose_prefix(
    state: Mapping[str, Tensor], wanted: Collection[str] = ("conv1.weight",)
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of the network with these keys, without the prefix that a wrapper put before
    them, and other keys.

    Where no prefix makes all keys fit, the state as it is.

    Raises:
        ValueError: two networks fit, and they differ.
    """
    one = next((key for key in wanted if key not in state), None) or next(iter(wanted), "")
    prefixes = [key.removesuffix(one) for key in state if key == one or key.endswith(f".{one}")]
    fitting = [prefix for prefix in prefixes if all(prefix + key in state for key in wanted)]
    first = min(fitting, key=lambda prefix: prefix.count("."), default="")
    for other in fitting:
        if (
            first
            and not other.startswith(first)
            and not all(_same(state[first + key], state[other + key]) for key in wanted)
        ):
            both = f"#{first[:-1]} or #{other[:-1]}"
            raise ValueError(f"it holds several networks; choose with {both} after the file's name")
    names = {*wanted}
    inner = {
        key.removeprefix(first): tensor for key, tensor in state.items() if key.startswith(first)
    }
    kept = {
        key: tensor for key, tensor in inner.items() if key in names or not _BESIDE.fullmatch(key)
    }
    return kept, [
        key for key in state if not key.startswith(first) or key.removeprefix(first) not in kept
    ]


def is_scale(key: str) -> bool:
    """Whether a tensor of this name is the mean or std of a normaliser."""
    return _NORMALIZER.fullmatch(key) is not None


def _floats(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        key: tensor.float() if tensor.is_floating_point() else tensor
        for key, tensor in state.items()
    }


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b))
