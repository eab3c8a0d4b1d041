"""Checkpoints by name: checked files, downloaded at first use and written whole."""

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

_TIMEOUT = (10, 60)  # seconds to connect, and between two pieces


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_sha256(name: str | Path) -> str:
    """The sha256 of the weights that `load_model` takes for a name or a path; "" for those a
    library has.

    Raises:
        ValueError, OSError: as in `fetch`, for a name whose weights the manifest has no sha256 of.
    """
    known, path = manifest(), Path(name).expanduser()
    if str(name) in known:
        return known[str(name)].sha256 or sha256(fetch(str(name)))
    if not path.is_file() and "#" in path.name:  # one of several networks in a file
        path = path.with_name(path.name.partition("#")[0])
    return sha256(path) if path.is_file() else ""


def fetch(name: str) -> Path:
    """A checked local file of the named checkpoint, downloaded at first use.

    It is looked for in checkpoints/, then in `cache_folder()`, where a file downloaded by hand may
    be put too. A published file is converted to safetensors once; its sha256 and the converted
    file's are recorded and checked ever after.

    Raises:
        ValueError: unknown name, or a file that is not what it was.
        OSError: not found locally, and every download failed; the message says where to put it by
            hand.
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
        if ready.exists() and note.exists():  # a cache that others fill, and this user reads
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
    """Check a published file, write it as safetensors, and return its sha256."""
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
    """Try each address in turn until one gives a file that passes; what `checked` returns of it.

    Raises:
        FileNotFoundError: none did; the message lists why.
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
    """Where a file is looked for, in order: in the folder $NBHELPERS_MIRROR, an address, if set;
    where published.
    """
    mirror = os.environ.get("NBHELPERS_MIRROR", "").rstrip("/")
    return [f"{mirror}/{file}"] * bool(mirror) + list(published)


def library_place(url: str) -> Path:
    """Where torch keeps a library's weights: $TORCH_HOME/hub/checkpoints, or the like."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def fetch_library(url: str) -> Path:
    """torchvision's weights, downloaded at first use to where torch itself would put them, and
    checked.

    Args:
        url: whose file name ends in the first digits of its sha256, as in resnet50-11ad3fa6.pth.

    Raises:
        ValueError: the file there is another one.
        OSError: every download failed; the message says where to put it by hand.
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
    """Bytes of the file at an address, as its server says; 0 where it does not, or does not
    answer.
    """
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
    """Download with progress. What a broken connection left is kept, and the next call goes on from
    there.

    Proxies are taken from the environment (HTTPS_PROXY).

    Args:
        url: http or https.
        path: where the complete file goes; it never holds half of one.
        size: bytes to expect; 0 where unknown.

    Raises:
        OSError: no connection, an error status, or it kept breaking.
        ValueError: HTML or another text in place of weights, or a wrong size.
    """
    # here, like others below: a bare PyTorch image, where networks are trained, lacks it
    import requests

    # One partial file per address: bytes of two mirrors are never mixed.
    part = path.with_name(f".{path.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part")
    stalled, failure = 0, "it would not continue"
    while stalled < 3:  # in a row, without a new byte
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
    """Append to `part` what it lacks; False where it was no use and is gone."""
    import requests

    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if response.status_code == 416 or (
            response.status_code == 206 and not _continues(response.headers, have)
        ):
            part.unlink()  # not the file this was a part of
            return False
        response.raise_for_status()
        if response.status_code != 206:
            have = 0
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdigit() else 0
        # what a broken connection loses is at most one piece
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
    # a server that closes early does not always make requests complain
    if total and received < total:
        raise requests.ConnectionError(f"closed after {received} of {total} bytes")
    if size and received != size:
        part.unlink()
        raise ValueError(f"wrong size: {received} bytes, expected {size}")
    return True


def _continues(headers: Mapping[str, str], have: int) -> bool:
    return headers.get("Content-Range", "").startswith(f"bytes {have}-")


def save_checkpoint(target: str | Path, state: Mapping[str, Tensor], about: Entry) -> Entry:
    """Write weights as safetensors, with `about` inside, whole or not at all.

    Args:
        target: a path that ends in .safetensors, or a name, which goes to checkpoints/ and into the
            manifest.
        state: tensors by the network's own keys; moved to the CPU.
        about: what is known of the network; `name`, `file` and `sha256` are filled in here.

    Returns:
        `about`, completed.
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
