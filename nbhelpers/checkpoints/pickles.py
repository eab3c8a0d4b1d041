"""Read torch checkpoints without executing their code.

A pickle is a program that calls functions by name. Here names become `Inert` objects, which are
never called; our own functions replace the few that rebuild containers and tensors. The unpickler
is Python's pure-Python one: the C version allocates memory by a memo index in the file, and hashes
nested tuples, which can take years. `torch.load` is unsafe too: it unpacks tar files, compiles
TorchScript, and lets a tensor enlarge its storage.
"""

import io
import itertools
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

MAX_PICKLE = 64 << 20  # bytes of keys and shapes; tensor data is outside
MAX_READS = 2_000_000  # about 65 per tensor; each may cost some hundred bytes

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
_FAULTS = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    EOFError,
    struct.error,
    pickle.UnpicklingError,
    DeprecationWarning,  # an invalid escape in a string, if warnings are errors
)


class Inert:
    """Placeholder of a class, a function, or a call's result; nothing is called."""

    __slots__ = ("items", "name", "state")

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: object = None  # argument of __setstate__
        self.items = Table()  # arguments of __setitem__

    def append(self, _: object) -> None:
        """Drop a member of a list or set subclass."""

    extend = append

    def __setitem__(self, key: object, value: object) -> None:
        self.items[key] = value


class Table(dict[Any, Any]):
    """A dictionary of the file; `state` has its attributes, such as a state dict's versions."""

    state: object = None

    def __setitem__(self, key: Any, value: Any) -> None:
        # Only keys that hash fast: nested tuples can take years.
        if isinstance(key, str) or (isinstance(key, int) and 0 <= key < 1 << 31):
            super().__setitem__(key, value)


@dataclass(frozen=True)
class Storage:
    """A typed byte range of the file."""

    key: str
    dtype: torch.dtype
    length: int
    offset: int = 0

    @property
    def bytes(self) -> int:
        return self.length * self.dtype.itemsize


@dataclass(frozen=True)
class Stored:
    """A tensor not yet read."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.size) != len(self.stride):
            raise ValueError("a tensor whose size and stride differ in length")
        if not all(
            type(n) is int and 0 <= n < 1 << 48 for n in (self.offset, *self.size, *self.stride)
        ):
            raise ValueError("a tensor with an impossible shape")

    @property
    def bytes(self) -> int:
        return math.prod(self.size) * self.dtype.itemsize

    def of(self, data: bytearray) -> Tensor:
        """The tensor, from its storage's bytes."""
        if not self.bytes:
            return torch.zeros([min(n, 1 << 20) for n in self.size], dtype=self.dtype)
        steps = zip(self.size, self.stride, strict=True)
        last = self.offset + sum((n - 1) * step for n, step in steps)
        # A stride of 0 would expand a few bytes to any size.
        if (last + 1) * self.dtype.itemsize > len(data) or self.bytes > len(data):
            raise ValueError("a tensor reaches beyond its storage")
        # A bool byte other than 0 and 1 is undefined.
        truth = self.dtype is torch.bool
        raw = torch.frombuffer(data, dtype=torch.uint8 if truth else self.dtype)
        view = raw.as_strided(self.size, self.stride, self.offset)
        return view.ne(0) if truth else view.clone(memory_format=torch.contiguous_format)


@dataclass
class Content:
    """A checkpoint file's objects, unread tensors, and names not called."""

    top: object
    kind: str
    read: Callable[[Storage], bytes]
    storage_bytes: int
    inert: set[str]

    def tensors(self, wanted: dict[str, Stored]) -> dict[str, Tensor]:
        """Read tensors, each storage once; shared tensors stay shared.

        Raises:
            ValueError: a tensor beyond its storage, or a truncated file.
        """
        stored = sorted(set(wanted.values()), key=lambda one: (one.storage.key, one.storage.length))
        if sum(one.bytes for one in stored) > 4 * self.storage_bytes + 1024:
            raise ValueError("its tensors are far larger than the file")
        done: dict[Stored, Tensor] = {}
        for storage, group in itertools.groupby(stored, key=lambda one: one.storage):
            data = bytearray(self.read(storage))
            if len(data) < storage.bytes:
                raise ValueError("it ends before its tensors do")
            done |= {one: one.of(data) for one in group}
        return {key: done[one] for key, one in wanted.items()}


class _Bounded:
    """A file with limits on bytes and reads."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.left, self.reads = file, min(size - file.tell(), MAX_PICKLE), 0

    def _counted(self, data: bytes) -> bytes:
        self.left, self.reads = self.left - len(data), self.reads + 1
        if self.reads > MAX_READS:
            raise ValueError("far longer than a checkpoint's")
        return data

    def read(self, n: int) -> bytes:
        return self._counted(self.file.read(min(n, self.left)))

    def readline(self) -> bytes:
        return self._counted(self.file.readline(min(self.left, 1 << 16)))


def _mapping(args: Sequence[Any]) -> Table:
    made = Table()
    if args and isinstance(args[0], list):
        for key, value in args[0]:
            made[key] = value
        args[0].clear()  # else repeated calls on one list fill the memory
    return made


def _tensor(args: Sequence[Any]) -> Stored:
    storage, offset, size, stride = args[:4]
    if not isinstance(storage, Storage) or max(len(size), len(stride)) > 32:
        raise ValueError("a tensor without a storage, or of too many dimensions")
    dtype = args[6] if len(args) > 6 else None  # of _rebuild_tensor_v3
    dtype = dtype if isinstance(dtype, torch.dtype) else storage.dtype
    return Stored(storage, dtype, offset + storage.offset, tuple(size), tuple(stride))


def _of_type(args: Sequence[Any]) -> object:
    """A plain tensor from a subclass."""
    return _tensor(args[2]) if args[0] is _tensor else Inert("a tensor subclass")


def _first(args: Sequence[Any]) -> object:
    return args[0] if args else ()


_KNOWN: dict[str, Callable[[Sequence[Any]], object]] = {
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _mapping,
    "builtins.dict": _mapping,
    "__builtin__.dict": _mapping,
    "torch.Size": _first,
    "builtins.set": _first,
    "__builtin__.set": _first,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor,
}


_PYTHONS: Any = pickle._Unpickler


class _Unpickler(_PYTHONS):
    """Builds containers, numbers, strings and `Stored` tensors.

    All opcodes that call, hash, import or set attributes are replaced.
    """

    def __init__(self, file: Any, inert: set[str], storages: dict[str, Storage]) -> None:
        super().__init__(file, encoding="latin1")
        self.inert, self.storages = inert, storages

    def find_class(self, module: str, name: str) -> object:
        full = f"{module[:60]}.{name[:60]}"
        if full in _KNOWN:
            return _KNOWN[full]
        if module.partition(".")[0] == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and isinstance(dtype := vars(torch).get(name), torch.dtype):
            return dtype
        if len(self.inert) < 1000:
            self.inert.add(full)
        return Inert(full)

    def persistent_load(self, pid: object) -> object:
        """Torch's ids: ('storage', class, key, device, length[, view]) and ('module', …)."""
        if not isinstance(pid, tuple) or len(pid) < 2:
            raise ValueError("a persistent id that is not torch's")
        if pid[0] == "module":
            return pid[1]
        _, dtype, key, _, length = pid[:5]
        if not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise ValueError("a storage of an unknown kind")
        if type(length) is not int or not 0 <= length < 1 << 48:
            raise ValueError("a storage of an impossible length")
        found = Storage(key, dtype, length, pid[5][1] if len(pid) > 5 and pid[5] else 0)
        self.storages[key] = found
        return found

    def get_extension(self, code: int) -> None:
        raise ValueError(f"a registered extension, {code}, has no place in a checkpoint")

    def _instantiate(self, call: Any, args: Any) -> None:
        known = callable(call) and isinstance(args, tuple | list)
        self.append(call(args) if known else Inert(getattr(call, "name", "an object")))

    def _reduce(self) -> None:
        args, call = self.stack.pop(), self.stack.pop()
        self._instantiate(call, args)

    def _reduce_with_keywords(self) -> None:
        self.stack.pop()
        self._reduce()

    def _build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Inert | Table):
            self.stack[-1].state = state

    def _dict(self) -> None:
        items, made = self.pop_mark(), Table()
        for key, value in zip(items[::2], items[1::2], strict=True):
            made[key] = value
        self.append(made)

    def _skip_frame(self) -> None:
        self.read(8)  # no frame buffer, so every read counts

    dispatch = _PYTHONS.dispatch | {
        pickle.FRAME[0]: _skip_frame,
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _reduce,
        pickle.NEWOBJ_EX[0]: _reduce_with_keywords,
        pickle.BUILD[0]: _build,
        pickle.DICT[0]: _dict,
        pickle.EMPTY_DICT[0]: lambda self: self.append(Table()),
        # sets as lists: members would be hashed
        pickle.EMPTY_SET[0]: _PYTHONS.load_empty_list,
        pickle.ADDITEMS[0]: _PYTHONS.load_appends,
        pickle.FROZENSET[0]: _PYTHONS.load_tuple,
        # allocates by the bytes present, not by the length given
        pickle.BYTEARRAY8[0]: _PYTHONS.load_binbytes8,
    }


def run(file: Any, inert: set[str], storages: dict[str, Storage]) -> Any:
    """Read one pickle.

    Args:
        file: has read and readline.
        inert: collects the names not called.
        storages: collects the tensors' storages.

    Raises:
        ValueError: not a pickle, truncated, or with content no checkpoint needs.
    """
    try:
        return _Unpickler(file, inert, storages).load()
    except _FAULTS as error:
        raise ValueError(f"not a readable pickle ({error})") from None


def read_zip(archive: zipfile.ZipFile) -> Content:
    """Read a `torch.save` file since 1.6, or a TorchScript archive."""
    pickles = [
        name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")
    ]
    if len(pickles) != 1:
        raise ValueError(
            "a zip file without a data.pkl, so not of torch.save; if the checkpoint is inside, "
            "unpack it"
        )
    root = pickles[0].removesuffix("data.pkl")
    order = root + "byteorder"
    if (
        order in archive.namelist()
        and archive.getinfo(order).file_size < 20
        and archive.read(order) != b"little"
    ):
        raise ValueError("written on a big-endian machine; save it again on a common one")
    if archive.getinfo(pickles[0]).file_size > MAX_PICKLE:
        raise ValueError(f"its data.pkl is larger than {MAX_PICKLE >> 20} MiB")

    def read(storage: Storage) -> bytes:
        with archive.open(f"{root}data/{storage.key}") as file:
            return file.read(storage.bytes)

    inert: set[str] = set()
    top = run(_Bounded(io.BytesIO(archive.read(pickles[0])), MAX_PICKLE), inert, {})
    kind = (
        "TorchScript archive" if root + "constants.pkl" in archive.namelist() else "torch zip file"
    )
    return Content(top, kind, read, sum(member.file_size for member in archive.infolist()), inert)


def read_legacy(file: BinaryIO, size: int) -> Content:
    """Read a `torch.save` file before 1.6: five pickles, then the storages."""
    inert = set[str]()
    storages: dict[str, Storage] = {}
    magic, _, _ = (run(_Bounded(file, size), inert, {}) for _ in range(3))
    if magic != 0x1950A86A20F9469CFC6C:
        raise ValueError("a pickle that torch.save did not write")
    top = run(_Bounded(file, size), inert, storages)
    keys = run(_Bounded(file, size), inert, {})
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("no list of storages")
    places: dict[str, int] = {}
    for key in keys:
        if key not in storages:
            raise ValueError("a storage without a tensor")
        length = struct.unpack("<q", file.read(8))[0]
        places[key] = file.tell() if length == storages[key].length else -1
        file.seek(
            length * storages[key].dtype.itemsize if 0 <= length < 1 << 48 else size, io.SEEK_CUR
        )
        if file.tell() > size:
            raise ValueError("it ends before its tensors do")

    def read(storage: Storage) -> bytes:
        place = places.get(storage.key, -1)
        if place < 0 or place + storage.bytes > size:
            raise ValueError("it ends before its tensors do")
        file.seek(place)
        return file.read(storage.bytes)

    return Content(top, "torch file of before 1.6", read, size, inert)
