"""Read torch checkpoints without running anything in them.

A pickle is a program: it names functions and has them called. Here a name gives an `Inert`, which
is never called, but for the few that rebuild containers and tensors, and these are given our own
functions. The unpickler is Python's own in Python: the one in C reserves as much memory as a memo's
index says, and hashes nested tuples, which may take years or end the process. `torch.load` is not
used for the rest: it unpacks tar files, hands TorchScript to its compiler, and lets a tensor
enlarge its storage.
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

MAX_PICKLE = 64 << 20  # bytes; a pickle holds keys and shapes, the tensors lie outside it
# reads; a tensor takes about 65, and each may cost some hundred bytes of memory
MAX_READS = 2_000_000

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
    DeprecationWarning,  # an odd escape in a text string, where warnings are errors
)


class Inert:
    """Stands for a class, a function, or what calling it would have made. Nothing was called."""

    __slots__ = ("items", "name", "state")

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: object = None  # what __setstate__ would have been given
        self.items = Table()  # what __setitem__ would have been given

    def append(self, _: object) -> None:
        """Lose a member, of a list or a set of another kind."""

    extend = append

    def __setitem__(self, key: object, value: object) -> None:
        self.items[key] = value


class Table(dict[Any, Any]):
    """A dictionary of the file; `state` holds its attributes, such as a state dict's versions."""

    state: object = None

    def __setitem__(self, key: Any, value: Any) -> None:
        # Only keys whose hash is cheap and cannot be chosen: nested tuples can be made to hash for
        # years.
        if isinstance(key, str) or (isinstance(key, int) and 0 <= key < 1 << 31):
            super().__setitem__(key, value)


@dataclass(frozen=True)
class Storage:
    """A run of numbers in the file."""

    key: str
    dtype: torch.dtype
    length: int
    offset: int = 0

    @property
    def bytes(self) -> int:
        return self.length * self.dtype.itemsize


@dataclass(frozen=True)
class Stored:
    """A tensor that has not been read yet."""

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
        # A stride of 0 would let a few bytes stand for any amount of memory.
        if (last + 1) * self.dtype.itemsize > len(data) or self.bytes > len(data):
            raise ValueError("a tensor reaches beyond its storage")
        # A bool byte other than 0 and 1 would be undefined.
        truth = self.dtype is torch.bool
        raw = torch.frombuffer(data, dtype=torch.uint8 if truth else self.dtype)
        view = raw.as_strided(self.size, self.stride, self.offset)
        return view.ne(0) if truth else view.clone(memory_format=torch.contiguous_format)


@dataclass
class Content:
    """A checkpoint file: its objects, with tensors still to be read, and the names that were not
    called.
    """

    top: object
    kind: str
    read: Callable[[Storage], bytes]
    storage_bytes: int
    inert: set[str]

    def tensors(self, wanted: dict[str, Stored]) -> dict[str, Tensor]:
        """Read tensors, each storage once; entries that share one tensor get one tensor.

        Raises:
            ValueError: one that does not fit its storage, or a file that ends before it.
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
    """A file that never reads more than it has, nor more than one pickle may hold."""

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
        args[0].clear()  # or one list, called for again and again, would fill the memory
    return made


def _tensor(args: Sequence[Any]) -> Stored:
    storage, offset, size, stride = args[:4]
    if not isinstance(storage, Storage) or max(len(size), len(stride)) > 32:
        raise ValueError("a tensor without a storage, or of too many dimensions")
    dtype = args[6] if len(args) > 6 else None  # of _rebuild_tensor_v3
    dtype = dtype if isinstance(dtype, torch.dtype) else storage.dtype
    return Stored(storage, dtype, offset + storage.offset, tuple(size), tuple(stride))


def _of_type(args: Sequence[Any]) -> object:
    """A tensor of a subclass as a plain one."""
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
    """Builds containers, numbers, strings and `Stored` tensors; calls nothing that a file names.

    Whatever could call, hash, import or set an attribute is replaced in the table of opcodes.
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
        """Torch's are ('storage', class, key, device, length[, view]) and ('module', …)."""
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
        self.read(8)  # no opcode is read past the count of reads

    dispatch = _PYTHONS.dispatch | {
        pickle.FRAME[0]: _skip_frame,
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _reduce,
        pickle.NEWOBJ_EX[0]: _reduce_with_keywords,
        pickle.BUILD[0]: _build,
        pickle.DICT[0]: _dict,
        pickle.EMPTY_DICT[0]: lambda self: self.append(Table()),
        # sets as lists, since members would be hashed
        pickle.EMPTY_SET[0]: _PYTHONS.load_empty_list,
        pickle.ADDITEMS[0]: _PYTHONS.load_appends,
        pickle.FROZENSET[0]: _PYTHONS.load_tuple,
        # not as much memory as it says, but as there is
        pickle.BYTEARRAY8[0]: _PYTHONS.load_binbytes8,
    }


def run(file: Any, inert: set[str], storages: dict[str, Storage]) -> Any:
    """Read one pickle from `file`.

    Args:
        file: with read and readline, at the pickle's beginning.
        inert: is added the names that were asked for and not called.
        storages: is added what the tensors lie in.

    Raises:
        ValueError: not a pickle, cut short, or one that asks for what no checkpoint needs.
    """
    try:
        return _Unpickler(file, inert, storages).load()
    except _FAULTS as error:
        raise ValueError(f"not a readable pickle ({error})") from None


def read_zip(archive: zipfile.ZipFile) -> Content:
    """A file of `torch.save` since 1.6, or a TorchScript archive."""
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
    """A file of `torch.save` before 1.6: five pickles, then the storages one after another."""
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
