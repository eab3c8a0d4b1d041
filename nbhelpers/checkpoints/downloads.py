"""Checkpoints by name: verified downloads and atomic writes."""

import hashlib
import itertools
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

from nbhelpers import files
from nbhelpers.checkpoints.entries import Entry, entry, manifest, write_entry
from nbhelpers.checkpoints.readers import read_weights, text_instead
from nbhelpers.files import cache_folder, save_tensors, write_text

_TIMEOUT = (10, 60)  # seconds: to connect, between chunks


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_sha256(name: str | Path) -> str:
    """SHA-256 of the weights behind a name or path; "" for a library's.

    Raises:
        ValueError, OSError: as in `fetch`, if the manifest has no sha256.
    """
    known, path = manifest(), Path(name).expanduser()
    if str(name) in known:
        return known[str(name)].sha256 or sha256(fetch(str(name)))
    if not path.is_file() and "#" in path.name:  # file.pth#key
        path = path.with_name(path.name.partition("#")[0])
    return sha256(path) if path.is_file() else ""


def fetch(name: str) -> Path:
    """The verified local file of a checkpoint, downloaded at first use.

    Searches checkpoints/, then `cache_folder()`, also for a file downloaded by hand. A published
    file is converted to safetensors once; later calls verify both sha256.

    Raises:
        ValueError: unknown name, or an altered file.
        OSError: not found, and every download failed; the message names the folder for a manual
            download.
    """
    wanted = entry(name)
    if (shipped := files.CHECKPOINTS / wanted.file).exists():
        _check(shipped, wanted.sha256)
        return shipped
    folder = cache_folder()
    original, ready, note = (
        folder / wanted.file,
        folder / f"{name}.safetensors",
        folder / f"{name}.json",
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{name}.lock").acquire()
    except OSError as error:
        if ready.exists() and note.exists():  # a shared, read-only cache
            _check(ready, json.loads(note.read_text(encoding="utf-8"))["safetensors"])
            return ready
        raise ValueError(
            f"cannot write to {folder} ({error.strerror}); set NBHELPERS_CACHE to a folder"
        ) from error
    with lock:
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
    """Verify a published file, convert it to safetensors, return its sha256."""
    digest = _check(original, expected)
    weights = read_weights(original)
    if original != ready:
        about = replace(
            about, mean=weights.mean or about.mean, std=weights.std or about.std, sha256=digest
        )
        save_tensors(
            ready,
            weights.state,
            asdict(about) | {"report": weights.report, "versions": dict(weights.versions)},
        )
    return digest


def _download(about: Entry, original: Path, ready: Path, expected: str) -> str:
    def checked() -> str:
        return _convert(original, ready, about, expected)

    try:
        digest = _from_any(about.urls, original, checked, size=about.size)
    except FileNotFoundError as error:
        tried = f" ({error})" if f"{error}" else ", and the manifest names no address for it"
        raise FileNotFoundError(
            f"checkpoint {about.name!r} was not found locally{tried}; get {about.file} by hand and "
            f"put it into {original.parent}"
        ) from None
    if original != ready:
        original.unlink()
    return digest


def _from_any(
    published: Sequence[str], path: Path, checked: Callable[[], str], *, size: int = 0
) -> str:
    """Download from the first address that passes `checked`; returns its result.

    Raises:
        FileNotFoundError: none passed; the message lists the reasons.
    """
    failures = []
    for url in addresses(path.name, published):
        try:
            download(url, path, size=size)
            return checked()
        except (OSError, ValueError) as error:
            path.unlink(missing_ok=True)
            failures.append(f"{url}: {error}")
    raise FileNotFoundError("; ".join(failures))


def addresses(file: str, published: Sequence[str]) -> list[str]:
    """Addresses to try, in order: under the URL $NBHELPERS_MIRROR if set, then as published."""
    mirror = os.environ.get("NBHELPERS_MIRROR", "").rstrip("/")
    return [f"{mirror}/{file}"] * bool(mirror) + list(published)


def library_place(url: str) -> Path:
    """Torch's local path of a library's weights, in $TORCH_HOME/hub/checkpoints by default."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def fetch_library(url: str) -> Path:
    """torchvision's weights, downloaded at first use to torch's own folder and verified.

    Args:
        url: ends in the first digits of the file's sha256, as in resnet50-11ad3fa6.pth.

    Raises:
        ValueError: the local file is another one.
        OSError: every download failed; the message names the folder for a manual download.
    """
    path = library_place(url)
    found = re.search(r"-([0-9a-f]{8,64})\.\w+$", path.name)
    digits = found[1] if found else ""
    files.check_writable(path.parent)
    with FileLock(path.with_suffix(".lock")):
        if path.exists():
            if not sha256(path).startswith(digits):
                raise ValueError(
                    f"{path} is truncated or altered: its sha256 is not {digits}…; delete it"
                )
            return path

        def checked() -> str:
            if (digest := sha256(path)).startswith(digits):
                return digest
            raise ValueError(f"a wrong file: sha256 {digest[:12]}…, expected {digits}…")

        try:
            _from_any([url], path, checked)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"no weights ({error}); put {path.name} by hand into {path.parent}"
            ) from None
    return path


def remote_size(url: str) -> int:
    """Content-Length of an address in bytes; 0 if unknown."""
    import requests

    try:
        answer = requests.head(
            url, headers={"Accept-Encoding": "identity"}, allow_redirects=True, timeout=_TIMEOUT
        )
        length = answer.headers.get("Content-Length", "")
        return int(length) if answer.ok and length.isdigit() else 0
    except (OSError, ValueError):
        return 0


def download(url: str, path: Path, *, size: int = 0) -> None:
    """Download with progress; a broken download resumes, also in the next call.

    Uses proxies of the environment (HTTPS_PROXY).

    Args:
        url: http or https.
        path: of the complete file, never a partial one.
        size: expected bytes; 0 if unknown.

    Raises:
        OSError: no connection, an error status, or repeated disconnects.
        ValueError: HTML or other text instead of weights, or a wrong size.
    """
    import requests  # here and below: missing in a bare PyTorch container

    # One partial file per address, so bytes of two mirrors never mix.
    part = path.with_name(f".{path.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part")
    stalled, failure = 0, "it would not continue"
    while stalled < 3:  # consecutive attempts without a new byte
        before = part.stat().st_size if part.exists() else 0
        try:
            if _receive(url, path, part, size):
                os.replace(part, path)
                return
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as error:
            failure = f"{error}"
        stalled = 0 if part.exists() and part.stat().st_size > before else stalled + 1
        time.sleep(0.5 * stalled)
    raise OSError(f"the connection kept breaking ({failure})")


def _receive(url: str, path: Path, part: Path, size: int) -> bool:
    """Append the missing bytes to `part`; False if `part` was invalid and deleted."""
    import requests

    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if response.status_code == 416 or (
            response.status_code == 206 and not _continues(response.headers, have)
        ):
            part.unlink()  # the server's file has changed
            return False
        response.raise_for_status()
        if response.status_code != 206:
            have = 0
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdigit() else 0
        # small chunks: a broken connection loses at most one
        pieces = response.iter_content(1 << 14)
        first = next(pieces, b"")
        if not have and (text := text_instead(first, response.headers.get("Content-Type", ""))):
            raise ValueError(text)
        if size and total and total != size:
            raise ValueError(f"wrong size: {total} bytes, expected {size}")
        bar = tqdm(desc=path.name, initial=have, total=total or None, unit="B", unit_scale=True)
        with open(part, "ab" if have else "wb") as file, bar:
            for piece in itertools.chain([first], pieces):
                file.write(piece)
                bar.update(len(piece))
    received = part.stat().st_size
    # requests does not always report a connection closed early
    if total and received < total:
        raise requests.ConnectionError(f"closed after {received} of {total} bytes")
    if size and received != size:
        part.unlink()
        raise ValueError(f"wrong size: {received} bytes, expected {size}")
    return True


def _continues(headers: Mapping[str, str], have: int) -> bool:
    return headers.get("Content-Range", "").startswith(f"bytes {have}-")


def save_checkpoint(target: str | Path, state: Mapping[str, Tensor], about: Entry) -> Entry:
    """Write weights and `about` as safetensors, atomically; returns `about` completed.

    Args:
        target: a .safetensors path, or a name for checkpoints/ and the manifest.
        state: the network's state dict.
        about: its facts; `name`, `file` and `sha256` are filled in.
    """
    named = not str(target).endswith(".safetensors")
    path = files.CHECKPOINTS / f"{target}.safetensors" if named else Path(target)
    about = replace(
        about, name=str(target) if named else path.stem, file=path.name, sha256="", size=0, urls=()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, state, asdict(about) | {"report": ""})
    about = replace(about, sha256=sha256(path))
    if named:
        write_entry(about)
    return about
