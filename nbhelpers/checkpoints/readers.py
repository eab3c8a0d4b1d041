"""Readers of checkpoints that never run pickled code."""

import errno
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from nbhelpers.checkpoints import pickles
from nbhelpers.checkpoints.entries import Entry, entry_of

_STATE_KEYS = (
    *("model", "state_dict", "model_state_dict", "net", "network", "weights", "last"),
    *("model_ema", "state_dict_ema", "ema_state_dict", "model_ema_state_dict", "ema", "ema_model"),
    "params_ema",
)

# Entries beside the network's weights: losses, metrics, counters, copies, and the unused block of
# TRADES' wide ResNets.
_BESIDE = re.compile(
    r"(criterion|loss|loss_fn|loss_func|loss_function|metrics?|(train|val|valid|test)_\w+|accuracy|acc|ema|model_ema"
    r"|ema_model|teacher|optimizer|sub_block1)\..*|n_averaged|step|epoch|(.*\.)?total_(ops|params)"
)

# A normalising layer's buffers in robustness, robust-models-transfer and RobustBench.
_NORMALIZER = re.compile(
    r"(?:attacker\.|model\.|0\.|normali[sz]er?\.)*(?:new_)?(mean|std|mu|sigma)"
)


_DAMAGE = (
    *(ValueError, TypeError, LookupError, EOFError, OverflowError, OSError),
    *(RuntimeError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, struct.error, safetensors.SafetensorError),
)


@dataclass(frozen=True)
class Weights:
    """A state dict under bare keys, and the file's normalisation."""

    state: dict[str, Tensor]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    report: str  # renamed, dropped and inert names, for printing
    scales: Mapping[str, Tensor]  # mean and std by bare key
    versions: Mapping[str, int]  # module name → layout version; may be empty
    raw: Mapping[str, Tensor]  # by the file's own keys
    entry: Entry | None = None  # written into the file by `save_checkpoint`


@dataclass(frozen=True)
class _Opened:
    """A file's tensors by its own keys."""

    state: dict[str, Tensor]
    report: list[str]
    versions: Mapping[Any, Any]
    note: dict[str, Any]  # nbhelpers' own safetensors metadata


def text_instead(head: bytes, content_type: str = "") -> str:
    """Why a file with this head is no checkpoint; "" if it may be one."""
    if head.startswith((b"PK", b"\x80")):  # whatever the content type
        return ""
    start = head[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if (
        start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head"))
        or "text/html" in content_type.lower()
    ):
        return "an HTML page instead of weights; the link is dead, or needs a browser"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer instead of weights; fetch the file itself (git lfs pull)"
    return "" if start else "an empty file"


def read_weights(path: str | Path, inside: str = "") -> Weights:
    """Read a checkpoint without executing its code.

    Formats: torch.save (old, new, dill) and safetensors. Removes `module.` and `model.` prefixes
    and the attacker's copies; a normalizer's buffers become mean and std; floats become float32.

    Args:
        path: a file.
        inside: selects a network: a key of the file ("state_dict_ema"), or a prefix of keys.

    Raises:
        ValueError: not a checkpoint, damaged, or with two different networks.
        OSError: the file is missing or cannot be opened.
    """
    path = Path(path)
    try:
        opened = _open(path, inside)
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # missing or not permitted: not about its content
        reason = f"{error}".splitlines()[0][:300] if f"{error}" else type(error).__name__
        raise ValueError(f"{path} cannot be read as a checkpoint: {reason}") from None
    try:
        return _own(opened) if opened.note else _remap(opened)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _open(path: Path, inside: str) -> _Opened:
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(512)
        if text := text_instead(head):
            raise ValueError(text)
        if head[8:9] == b"{":
            return _open_safetensors(path, inside)
        if head.startswith(b"PK"):
            with zipfile.ZipFile(file) as archive:
                _refuse_bombs(archive.infolist(), size)
                return _choose(path, pickles.read_zip(archive), inside)
        file.seek(0)
        if head.startswith(b"\x80") or head[:1] in b"(]}c":
            return _choose(path, pickles.read_legacy(file, size), inside)
    packed = "; unpack it" if head.startswith(b"\x1f\x8b") else ""
    raise ValueError(f"neither a file of torch.save nor safetensors{packed}")


def _open_safetensors(path: Path, inside: str) -> _Opened:
    with safetensors.safe_open(path, "pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        note = json.loads((file.metadata() or {}).get("nbhelpers", "{}"))
    if not isinstance(note, dict):
        raise ValueError("its metadata were not written by nbhelpers")
    state = _under(state, inside) if inside else state
    return _Opened(state, [f"{path.name}: safetensors, {len(state)} tensors"], {}, note)


def _own(opened: _Opened) -> Weights:
    """Weights of an nbhelpers file, whose keys are the network's own."""
    note = dict(opened.note)
    report = [*opened.report, str(note.pop("report", ""))]
    versions = note.pop("versions", {})
    entry = entry_of(str(note.get("name", "")), note)
    return Weights(
        state=_floats(opened.state),
        mean=entry.mean or None,
        std=entry.std or None,
        report="\n  ".join(filter(None, report)),
        scales={},
        raw={},
        versions=versions if isinstance(versions, dict) else {},
        entry=entry,
    )


def _under(state: dict[str, Any], inside: str) -> dict[str, Any]:
    """The entries under a prefix, without it."""
    prefix = inside.removesuffix(".") + "."
    found = {
        key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)
    }
    if not found:
        near = sorted({key.partition(".")[0] for key in state})
        raise ValueError(f"no network under {inside!r}; its keys begin with {', '.join(near[:12])}")
    return found


def _refuse_bombs(members: list[zipfile.ZipInfo], size: int) -> None:
    # weights hardly compress; more than twentyfold is a zip bomb
    stored = sum(m.file_size for m in members if m.compress_type == zipfile.ZIP_STORED)
    if any(m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for m in members):
        raise ValueError("a zip file of an unusual compression")
    if stored > size or sum(m.file_size for m in members) > max(64 << 20, 20 * size):
        raise ValueError(f"it would unpack to far more than its {size} bytes")


def _choose(path: Path, content: pickles.Content, inside: str = "") -> _Opened:
    """Find the state dict in a pickle's content."""
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
    if not found:  # under an unusual key
        states = {key: state for key, value in table.items() if (state := _flat(value))}
        if len(states) > 1:
            raise ValueError(
                f"several state dicts, {', '.join(states)}; choose one with #KEY after the file's "
                "name"
            )
        where, found = next(iter(states.items()), ("", {}))
    holder = table.get(where, content.top)
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
    return _Opened(content.tensors(found), report, _versions(holder), {})


def _versions(state: object) -> dict[Any, Any]:
    """A state dict's metadata: module name → layout version."""
    note = state.state if isinstance(state, pickles.Table) else None
    table = note.get("_metadata") if isinstance(note, dict) else None
    return {
        key: one["version"]
        for key, one in (table.items() if isinstance(table, dict) else ())
        if isinstance(one, dict) and isinstance(one.get("version"), int)
    }


def _unfolded(table: dict[Any, Any]) -> dict[str, Any]:
    """A file's table, with entries of nested tables as "state.model"."""
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
    """The tensors of a state dict or pickled module; limited, since shared parts can nest."""
    flat, todo, visits = {}, [("", top, 0)], 0
    while todo:
        prefix, value, depth = todo.pop()
        if isinstance(value, pickles.Inert):
            value = _parts(value.items or value.state)
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


def _parts(module: Any) -> Any:
    """A module's state dict: no non-persistent buffers, no other attributes."""
    if not isinstance(module, dict) or "_parameters" not in module:
        return module  # such as TorchScript's, where tensors are attributes
    passing = module.get("_non_persistent_buffers_set")
    names = [name for name in passing if isinstance(name, str)] if passing else []
    parts = [module.get(name) for name in ("_parameters", "_buffers", "_modules")]
    every = {key: one for part in parts if isinstance(part, dict) for key, one in part.items()}
    return {key: one for key, one in every.items() if key not in names}


def _remap(opened: _Opened) -> Weights:
    """Weights under bare keys, from a file of any origin."""
    scales, notes = _scales(opened.state)
    groups: tuple[dict[str, Tensor], dict[str, Tensor]] = {}, {}  # model, attacker
    for key, tensor in opened.state.items():
        if (bare := _unwrapped(key)) in scales and tensor.numel() in (1, 3):
            continue
        group = groups[bare.startswith("attacker.")]
        bare = bare.removeprefix("attacker.")
        if bare in group:
            raise ValueError(f"two tensors for the key {bare[:80]!r}")
        group[bare] = tensor
    state, copies = map(_outside, groups)
    for key, tensor in copies.items():
        if key not in state or not _same(state[key], tensor):
            raise ValueError(
                f"the attacker's copy of {key[:80]!r} is not the model's; which network is it?"
            )
    if not state:
        raise ValueError("no weights but a normalizer's")
    example = next(iter(state))
    own = (key for key in opened.state if key.endswith(example) and "attacker." not in key)
    was = next(own, example)
    prefix = was.removesuffix(example)
    notes.append(f"{prefix}* -> *, {len(state)} tensors" if prefix else "keys as they were")
    if copies:
        notes.append(f"attacker's copies, equal to the model's and dropped: {len(copies)}")
    kinds = {t.dtype for t in state.values() if t.is_floating_point()} - {torch.float32}
    notes += [f"{kind} -> float32".removeprefix("torch.") for kind in kinds]
    by_kind = {_scale_kind(key): tuple(scale.tolist()) for key, scale in scales.items()}
    return Weights(
        state=_floats(state),
        mean=by_kind.get("mean"),
        std=by_kind.get("std"),
        report="\n  ".join(opened.report + notes),
        scales=scales,
        raw=opened.state,
        versions={
            f"{key}.".removeprefix(prefix).removesuffix("."): version
            for key, version in opened.versions.items()
            if f"{key}.".startswith(prefix)
        },
    )


def _scales(raw: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """A normaliser's mean and std by bare key, and a report.

    Names are no proof: they must be pairs of equal length under one prefix.
    """
    found: dict[str, Tensor] = {}
    named = {
        (*_place(key), tensor.numel()) for key, tensor in raw.items() if is_scale(_unwrapped(key))
    }
    first: dict[str, Tensor] = {}
    report = []
    for key, tensor in raw.items():
        if len(key) > 500:
            raise ValueError("a key longer than any network's")
        bare = _unwrapped(key)
        if not is_scale(bare) or tensor.numel() not in (1, 3):
            continue
        prefix, kind = _place(key)
        other = "std" if kind == "mean" else "mean"
        if (prefix, other, tensor.numel()) not in named or (
            kind == "std" and not (tensor > 0).all()
        ):
            continue
        scale = tensor.flatten().float()
        if not torch.equal(first.setdefault(kind, scale), scale):
            raise ValueError(f"it contains two different values of {kind}")
        found[bare] = scale
        report.append(f"{key} -> {kind} {tuple(round(x, 4) for x in scale.tolist())}")
    return found, report


def _place(key: str) -> tuple[str, str]:
    """A normaliser key's prefix, and "mean" or "std"."""
    return key.rpartition(".")[0], _scale_kind(_unwrapped(key))


def _scale_kind(key: str) -> str:
    match = _NORMALIZER.fullmatch(key)
    return "mean" if match and match[1] in ("mean", "mu") else "std"


def _unwrapped(key: str) -> str:
    """A key without the prefixes of DataParallel and torch.compile."""
    while key.startswith(("module.", "_orig_mod.")):
        key = key.partition(".")[2]
    return key.replace("._orig_mod.", ".")  # of a compiled submodule


def _outside(group: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without `model.`, if it prefixes all keys."""
    while group and all(key.startswith("model.") for key in group):
        group = {key.removeprefix("model."): tensor for key, tensor in group.items()}
    return group


def choose_prefix(
    state: Mapping[str, Tensor], wanted: Collection[str] = ("conv1.weight",)
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of the network with these keys, without a wrapper's prefix, and the other keys.

    If no prefix fits all keys, the state is unchanged.

    Raises:
        ValueError: two different networks fit.
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
            raise ValueError(
                f"it contains several networks; choose with {both} after the file's name"
            )
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
    """Whether a key names a normaliser's mean or std."""
    return _NORMALIZER.fullmatch(key) is not None


def _floats(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        key: tensor.float() if tensor.is_floating_point() else tensor
        for key, tensor in state.items()
    }


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b))
