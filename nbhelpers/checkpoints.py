"""Checkpoints by name: the manifest, checked files, downloads, and readers that never run pickled code."""

import difflib
import errno
import gzip
import hashlib
import itertools
import json
import os
import re
import struct
import tempfile
import time
import tomllib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_origin

import safetensors
import safetensors.torch
import torch
from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

from nbhelpers import safe_pickle

CHECKPOINTS = Path(__file__).resolve().parents[1] / "checkpoints"
_TIMEOUT = (10, 60)  # seconds to connect, and between two pieces
_STATE_KEYS = ("model", "state_dict", "model_state_dict", "net", "network", "weights", "last")
_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".tar")
# Buffers of a normalising layer, as robustness, robust-models-transfer and RobustBench name them.
_NORMALIZER = re.compile(r"(?:attacker\.|model\.|0\.|normali[sz]er?\.)*(?:new_)?(mean|std|mu|sigma)")
_DAMAGE = (
    *(ValueError, TypeError, IndexError, KeyError, EOFError, OverflowError, OSError, RuntimeError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, struct.error, safetensors.SafetensorError),
)


@dataclass(frozen=True)
class Entry:
    """What the manifest says of one network. Accuracies are percentages."""

    name: str
    file: str
    architecture: str  # "resnet18" is a CIFAR ResNet of nbhelpers.resnet, "torchvision:resnet50" torchvision's
    arguments: Mapping[str, Any] = field(default_factory=dict)
    dataset: str = ""
    classes: tuple[str, ...] = ()  # ("torchvision",) for its names of ImageNet's; `entry` spells them out
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    image_size: int = 0  # pixels, square
    sha256: str = ""  # of `file`; empty: recorded at first use
    size: int = 0  # bytes of `file`; 0: unknown
    urls: tuple[str, ...] = ()  # tried in order
    training: Mapping[str, Any] = field(default_factory=dict)
    accuracy: Mapping[str, Any] = field(default_factory=dict)  # measured here
    published: Mapping[str, Any] = field(default_factory=dict)  # from the source it names
    verified: str = "real weights"  # or "weights written by the real library", "documented format only"


@dataclass(frozen=True)
class Weights:
    """A network's state dict under its bare keys, and the normalisation its file carries."""

    state: dict[str, Tensor]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    report: str  # which keys went where, what was dropped or stubbed; print it
    entry: Entry | None = None  # written into the file by `save_checkpoint`


def manifest() -> dict[str, Entry]:
    """Every entry of checkpoints/manifest.toml, by name.

    Raises:
        ValueError: the manifest cannot be parsed, or an entry has an unknown or a missing field.
    """
    path = CHECKPOINTS / "manifest.toml"
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the manifest {path}: {error}") from None
    datasets = tables.pop("datasets", {})
    return {name: _entry(name, {**datasets.get(table.get("dataset"), {}), **table}) for name, table in tables.items()}


def _entry(name: str, table: Mapping[str, Any]) -> Entry:
    known = {f.name for f in fields(Entry)}
    if unknown := set(table) - known:
        raise ValueError(f"checkpoint {name!r}: unknown fields {sorted(unknown)}; known are {sorted(known)}")
    lists: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    lists["name"] = name
    for one in fields(Entry):
        if one.name in lists and not isinstance(lists[one.name], get_origin(one.type) or one.type):  # type: ignore[arg-type]
            raise ValueError(f"checkpoint {name!r}: {one.name} is {lists[one.name]!r:.60}, wanted {one.type}")
    try:
        return Entry(**lists)
    except TypeError as error:
        raise ValueError(f"checkpoint {name!r}: {error}") from None


def entry(name: str) -> Entry:
    """The manifest's entry of that name.

    Raises:
        ValueError: no such name; the message lists the near ones.
    """
    entries = manifest()
    if name not in entries:
        near = difflib.get_close_matches(name, entries, n=3, cutoff=0.5) or sorted(entries)
        raise ValueError(f"unknown checkpoint {name!r}; near names: {', '.join(near)} (all: nb.checkpoints.manifest())")
    found = entries[name]
    if found.classes == ("torchvision",):
        from torchvision.models import ResNet50_Weights  # here, as it takes seconds to import

        found = replace(found, classes=tuple(ResNet50_Weights.DEFAULT.meta["categories"]))
    return found


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(name: str) -> Path:
    """A checked local file of the named checkpoint, downloaded at first use.

    It is looked for in checkpoints/, then in `cache_folder()`, where a file downloaded by hand may be put too.
    A published file is converted to safetensors once; its sha256 and the converted file's are recorded and checked
    ever after.

    Raises:
        ValueError: unknown name, or a file that is not what it was.
        OSError: not at hand, and no address gave it; the message says where to put it by hand.
    """
    wanted = entry(name)
    if (shipped := CHECKPOINTS / wanted.file).exists():
        _check(shipped, wanted.sha256)
        return shipped
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    original, ready, note = folder / wanted.file, folder / f"{name}.safetensors", folder / f"{name}.json"
    with FileLock(folder / f"{name}.lock"):
        known = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
        if ready.exists() and known and wanted.sha256 in ("", known["sha256"]):
            _check(ready, known["safetensors"])
            return ready
        expected = wanted.sha256 or known.get("sha256", "")
        if original.exists():
            digest = _convert(original, ready, wanted, expected)
        else:
            digest = _download(wanted, original, ready, expected)
        known = {"file": wanted.file, "sha256": digest, "safetensors": sha256(ready)}
        write_text(note, json.dumps(known, indent=1))
    return ready


def _check(path: Path, expected: str) -> str:
    digest = sha256(path)
    if expected and digest != expected:
        raise ValueError(
            f"{path} is truncated or altered: sha256 {digest[:12]}…, expected {expected[:12]}…; "
            "restore it, or delete it to have it downloaded again"
        )
    return digest


def _convert(original: Path, ready: Path, about: Entry, expected: str) -> str:
    """Check a published file, write it as safetensors, and return its sha256."""
    digest = _check(original, expected)
    weights = read_weights(original)
    if original != ready:
        about = replace(about, mean=weights.mean or about.mean, std=weights.std or about.std, sha256=digest)
        _save(ready, weights.state, about, weights.report)
    return digest


def _download(about: Entry, original: Path, ready: Path, expected: str) -> str:
    """Try each address in turn until one gives a file that can be checked and read."""
    failures = []
    for url in about.urls:
        try:
            download(url, original, size=about.size)
            digest = _convert(original, ready, about, expected)
        except (OSError, ValueError) as error:
            original.unlink(missing_ok=True)
            failures.append(f"{url}: {error}")
        else:
            if original != ready:
                original.unlink()
            return digest
    tried = f" ({'; '.join(failures)})" if failures else ", and the manifest has no address for it"
    raise FileNotFoundError(
        f"checkpoint {about.name!r} is not at hand{tried}; get {about.file} by hand and put it into {original.parent}"
    )


def download(url: str, path: Path, *, size: int = 0) -> None:
    """Download with progress. What a broken connection left is kept, and the next call goes on from there.

    Proxies are taken from the environment (HTTPS_PROXY).

    Args:
        url: http or https.
        path: where the complete file goes; it never holds half of one.
        size: bytes to expect; 0 where unknown.

    Raises:
        OSError: no connection, an error status, or it kept breaking.
        ValueError: HTML or another text in place of weights, or a wrong size.
    """
    import requests  # here, like others below: a bare PyTorch image, where networks are trained, lacks it

    # One partial file per address: bytes of two mirrors are never mixed.
    part = path.with_name(f".{path.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part")
    stalled, failure = 0, "it would not continue"
    while stalled < 3:  # in a row, without a new byte
        before = part.stat().st_size if part.exists() else 0
        try:
            if _receive(url, path, part, size):
                os.replace(part, path)
                return
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            failure = f"{error}"
        stalled = 0 if part.exists() and part.stat().st_size > before else stalled + 1
        time.sleep(0.5 * stalled)
    raise OSError(f"the connection kept breaking ({failure})")


def _receive(url: str, path: Path, part: Path, size: int) -> bool:
    """Append to `part` what it lacks; False where it was no use and is gone."""
    import requests

    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if response.status_code == 416 or (response.status_code == 206 and not _continues(response.headers, have)):
            part.unlink()  # not the file this was a part of
            return False
        response.raise_for_status()
        if response.status_code != 206:
            have = 0
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdigit() else 0
        pieces = response.iter_content(1 << 14)  # what a broken connection loses is at most one piece
        first = next(pieces, b"")
        if not have and (text := _text_instead(first, response.headers.get("Content-Type", ""))):
            raise ValueError(text)
        if size and total and total != size:
            raise ValueError(f"wrong size: {total} bytes, expected {size}")
        bar = tqdm(desc=path.name, initial=have, total=total or None, unit="B", unit_scale=True)
        with open(part, "ab" if have else "wb") as file, bar:
            for piece in itertools.chain([first], pieces):
                file.write(piece)
                bar.update(len(piece))
    received = part.stat().st_size
    if total and received < total:  # a server that closes early does not always make requests complain
        raise requests.ConnectionError(f"closed after {received} of {total} bytes")
    if size and received != size:
        part.unlink()
        raise ValueError(f"wrong size: {received} bytes, expected {size}")
    return True


def _continues(headers: Mapping[str, str], have: int) -> bool:
    return headers.get("Content-Range", "").startswith(f"bytes {have}-")


def _text_instead(head: bytes, content_type: str = "") -> str:
    """What is wrong with a file that begins like this; "" where nothing is seen."""
    if head.startswith((b"PK", b"\x80")):  # whatever the server calls it
        return ""
    start = head[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")) or "text/html" in content_type.lower():
        return "an HTML page in place of weights; the link is dead, or wants a browser"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer in place of weights; fetch the file itself (git lfs pull)"
    return "" if start else "an empty file"


def read_weights(path: str | Path | Sequence[str | Path]) -> Weights:
    """Read a checkpoint without running any code in it.

    Files of torch.save (old and new, pickled with dill or not) and of safetensors; a .zip or .gz around one; shards, as
    a list or by their index.json. Keys lose `module.`, `model.` and the attacker's copies of the weights; buffers of a
    normalizer become mean and std; floats of any kind become float32.

    Args:
        path: a file, or the files of a sharded checkpoint.

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
    for one in paths:
        try:
            state, notes, embedded = _open(one)
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
        state, mean, std, notes = (_floats(raw), None, None, []) if embedded else _remap(raw)
    except ValueError as error:
        raise ValueError(f"{paths[0]}: {error}") from None
    kept = None
    if embedded:
        report += [str(embedded.pop("report", ""))]
        try:
            kept = _entry(str(embedded.get("name", "")), embedded)
        except ValueError as error:
            raise ValueError(f"{paths[0]}: {error}") from None
        mean, std = mean or kept.mean or None, std or kept.std or None
    return Weights(state, mean, std, "\n  ".join(filter(None, report + notes)), kept)


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if any(Path(name).name != name for name in names):
            raise ValueError("a shard outside its folder")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index} is not an index of shards: {error}") from None
    return [index.parent / name for name in names]


def _open(path: Path, nested: bool = False) -> tuple[dict[str, Tensor], list[str], dict[str, Any]]:
    """The tensors of one file by their own keys, what there is to say of it, and the note safetensors carry."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(512)
        if text := _text_instead(head):
            raise ValueError(text)
        if head[8:9] == b"{":
            return _open_safetensors(path)
        if head.startswith(b"PK"):
            with zipfile.ZipFile(file) as archive:
                members = [m for m in archive.infolist() if not m.is_dir() and "__MACOSX" not in m.filename]
                _refuse_bombs(members, size)
                inner = [m for m in members if m.filename.endswith(_SUFFIXES)]
                if len(inner) == 1 and not nested:
                    with archive.open(inner[0]) as source:
                        return _unpacked(path, source, inner[0].filename, _unpacked_limit(size))
                return _choose(path, safe_pickle.read_zip(archive))
        file.seek(0)
        if head.startswith(b"\x1f\x8b") and not nested:
            with gzip.open(file) as source:
                return _unpacked(path, source, path.stem, _unpacked_limit(size))
        if head.startswith(b"\x80") or head[:1] in b"(]}c":
            return _choose(path, safe_pickle.read_legacy(file, size))
    raise ValueError("neither a file of torch.save nor safetensors")


def _open_safetensors(path: Path) -> tuple[dict[str, Tensor], list[str], dict[str, Any]]:
    with safetensors.safe_open(path, "pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        note = json.loads((file.metadata() or {}).get("nbhelpers", "{}"))
    if not isinstance(note, dict):
        raise ValueError("its metadata is not that of nbhelpers")
    return state, [f"{path.name}: safetensors, {len(state)} tensors"], note


def _unpacked_limit(size: int) -> int:
    return max(64 << 20, 20 * size)  # weights hardly compress; what grows more is a bomb


def _refuse_bombs(members: list[zipfile.ZipInfo], size: int) -> None:
    stored = sum(m.file_size for m in members if m.compress_type == zipfile.ZIP_STORED)
    if any(m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for m in members):
        raise ValueError("a zip file of an unusual compression")
    if stored > size or sum(m.file_size for m in members) > _unpacked_limit(size):
        raise ValueError(f"it would unpack to far more than its {size} bytes")


def _unpacked(path: Path, source: Any, name: str, limit: int) -> tuple[dict[str, Tensor], list[str], dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        inner = Path(folder) / (Path(name).name or "checkpoint")
        with open(inner, "wb") as file:
            while chunk := source.read(1 << 20):
                if file.tell() + len(chunk) > limit:
                    raise ValueError(f"it would unpack to more than {limit} bytes")
                file.write(chunk)
        state, report, note = _open(inner, nested=True)
        return state, [f"{path.name}: compressed", *report], note


def _choose(path: Path, content: safe_pickle.Content) -> tuple[dict[str, Tensor], list[str], dict[str, Any]]:
    """Find the state dict in what a pickle held."""
    top = content.top.items or content.top.state if isinstance(content.top, safe_pickle.Inert) else content.top
    table = top if isinstance(top, dict) else {}
    found, where = next(
        ((state, key) for key in _STATE_KEYS if (state := _flat(table.get(key)))), (_flat(content.top), "")
    )
    if not found:
        raise ValueError(f"a {content.kind} without a state dict{_not_run(content)}")
    report = [f"{path.name}: {content.kind}, {len(found)} tensors" + (f" under {where!r}" if where else "")]
    if where:
        others = [_scalar(key, value) for key, value in table.items() if key != where]
        report += [f"left aside: {', '.join(others[:20])}"] if others else []
    if content.inert:
        report += [_not_run(content).removeprefix("; ")]
    return content.tensors(found), report, {}


def _not_run(content: safe_pickle.Content) -> str:
    names = sorted(ascii(name)[1:-1] for name in content.inert)
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"; named in the file and not run: {', '.join(names[:20])}{more}" if names else ""


def _scalar(key: object, value: object) -> str:
    short = isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 53)
    return f"{key!s:.40} = {value}" if short else f"{key!s:.40}"


def _flat(top: object) -> dict[str, safe_pickle.Stored]:
    """The tensors of a state dict, or of a module that was pickled whole.

    Shared and nested parts can make a small file look endless, hence the limits.
    """
    flat, todo, visits = {}, [("", top, 0)], 0
    while todo:
        prefix, value, depth = todo.pop()
        if isinstance(value, safe_pickle.Inert):
            value = value.items or value.state
            if isinstance(value, dict):
                parts = (value.get(name) for name in ("_parameters", "_buffers", "_modules"))
                value = {key: one for part in (value, *parts) if isinstance(part, dict) for key, one in part.items()}
        elif depth:
            continue
        for key, one in value.items() if isinstance(value, dict) else ():
            visits += 1
            if visits > 200_000 or len(prefix) + len(str(key)) > 500:
                raise ValueError("its state dict is larger than any network's")
            if isinstance(one, safe_pickle.Stored):
                flat[f"{prefix}{key}"] = one
            elif isinstance(one, safe_pickle.Inert):
                todo.append((f"{prefix}{key}.", one, depth + 1))
    return flat


def _remap(raw: dict[str, Tensor]) -> tuple[dict[str, Tensor], Any, Any, list[str]]:
    """Bare keys, mean and std from a checkpoint's own keys, and a report of it."""
    state: dict[str, Tensor] = {}
    copies: dict[str, Tensor] = {}
    scales: dict[str, Tensor] = {}
    report = []
    for key, tensor in raw.items():
        if len(key) > 500:
            raise ValueError("a key longer than any network's")
        bare = key
        while bare.startswith("module."):
            bare = bare.removeprefix("module.")
        if (match := _NORMALIZER.fullmatch(bare)) and tensor.numel() in (1, 3):
            kind = "mean" if match[1] in ("mean", "mu") else "std"
            if kind in scales and not torch.equal(scales[kind], tensor.flatten().float()):
                raise ValueError(f"it holds two different values of {kind}")
            scales[kind] = tensor.flatten().float()
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
            raise ValueError(f"the attacker's copy of {key[:80]!r} is not the model's; which network is it?")
        dropped.append(key)
    if not state:
        raise ValueError("no weights but a normalizer's")
    example = next(iter(state))
    was = next(key for key in raw if key.endswith(example) and "attacker." not in key)
    report.append(f"{was.removesuffix(example)}* -> *, {len(state)} tensors" if was != example else "keys as they were")
    if dropped:
        report.append(f"attacker's copies, equal to the model's and dropped: {len(dropped)}")
    for kind in {str(t.dtype) for t in state.values() if t.is_floating_point() and t.dtype != torch.float32}:
        report.append(f"{kind.removeprefix('torch.')} -> float32")
    mean, std = (tuple(scales[kind].tolist()) if kind in scales else None for kind in ("mean", "std"))
    return _floats(state), mean, std, report


def _floats(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in state.items()}


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b))


def save_checkpoint(target: str | Path, state: Mapping[str, Tensor], about: Entry) -> Entry:
    """Write weights as safetensors, with `about` inside, whole or not at all.

    Args:
        target: a path that ends in .safetensors, or a name, which goes to checkpoints/ and into the manifest.
        state: tensors by the network's own keys; moved to the CPU.
        about: what is known of the network; `name`, `file` and `sha256` are filled in here.

    Returns:
        `about`, completed.
    """
    named = not str(target).endswith(".safetensors")
    path = CHECKPOINTS / f"{target}.safetensors" if named else Path(target)
    about = replace(about, name=str(target) if named else path.stem, file=path.name, sha256="", size=0, urls=())
    path.parent.mkdir(parents=True, exist_ok=True)
    _save(path, state, about)
    about = replace(about, sha256=sha256(path))
    if named:
        write_entry(about)
    return about


def _save(path: Path, state: Mapping[str, Tensor], about: Entry, report: str = "") -> None:
    save_tensors(path, state, asdict(about) | {"report": report})


def save_tensors(path: Path, state: Mapping[str, Tensor], note: Mapping[str, Any]) -> None:
    """Write tensors as safetensors with a JSON note, whole or not at all; OSError where the disk is full."""
    # A single metadata key: safetensors orders several at random, and equal weights should give equal files.
    metadata = {"nbhelpers": json.dumps(note, sort_keys=True)}
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        safetensors.torch.save_file(tensors, temporary, metadata)
        os.replace(temporary, path)
    except safetensors.SafetensorError as error:  # as it calls a full disk
        raise OSError(f"cannot write {path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_entry(about: Entry) -> None:
    """Put one entry into checkpoints/manifest.toml, or replace it; the rest of the file stays as it is."""
    import tomlkit

    path = CHECKPOINTS / "manifest.toml"
    with FileLock(path.with_suffix(".lock")):
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        shared = tomllib.loads("\n".join(lines)).get("datasets", {}).get(about.dataset, {})
        table = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(about).items()}
        kept = {k: v for k, v in table.items() if v and k != "name" and shared.get(k) != v}
        heads = [i for i, line in enumerate(lines) if line.startswith("[")]
        own = [i for i in heads if re.match(rf"""\[("?){re.escape(about.name)}\1[].]""", lines[i])]
        start = own[0] if own else len(lines)
        end = next((i for i in heads if own and i > own[-1]), len(lines))
        while end > start and (not lines[end - 1] or lines[end - 1].startswith("#")):
            end -= 1  # a comment above the next entry is that one's
        fresh = ([] if own or not lines else [""]) + tomlkit.dumps({about.name: kept}).splitlines()
        write_text(path, "\n".join([*lines[:start], *fresh, *lines[end:]]) + "\n")


def cache_folder() -> Path:
    """Where downloads go: $NBHELPERS_CACHE, else the platform's cache folder."""
    if given := os.environ.get("NBHELPERS_CACHE"):
        return Path(given)
    try:
        import pooch
    except ImportError:
        return Path.home() / ".cache" / "nbhelpers"
    return Path(pooch.os_cache("nbhelpers"))
