"""Read torch checkpoints without running anything in them.

A pickle is a program. Python's unpickler runs it, and even one whose imports are refused can be
made to fill the memory (memo indices, declared lengths) or to hang (hashes of nested tuples). So
this module has its own interpreter, which can build containers, numbers and strings, take note of
where tensors lie, and nothing else: there is no call to make and no import to do. Every other
object becomes an `Inert` that swallows whatever is done to it.
"""

import io
import math
import pickletools
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

MAX_PICKLE = 64 << 20  # bytes; a pickle holds keys and shapes, the tensors lie outside it
# opcodes; a tensor takes about 25, and each step may cost some hundred bytes of memory
MAX_STEPS = 2_000_000

_DTYPES = {
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
# Names handled here, hence not in the report.
_TAME = (
    *(
        "torch._utils._rebuild_",
        "torch._tensor._rebuild_from",
        "torch.Size",
        "torch.float",
        "torch.bfloat16",
    ),
    *("torch.int", "collections.OrderedDict", "collections.defaultdict"),
)
_FAULTS = (
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    struct.error,
    DeprecationWarning,  # an odd escape in a text string, where warnings are errors
)


class Inert:
    """Stands for a class, a function, or what calling it would have made. Nothing was called."""

    __slots__ = ("items", "name", "state")

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: object = None  # what __setstate__ would have been given
        self.items: dict[Any, Any] | None = None  # what __setitem__ would have been given


@dataclass(frozen=True)
class Storage:
    """A run of numbers in the file."""

    key: str
    dtype: torch.dtype
    length: int
    offset: int = 0


@dataclass(frozen=True)
class Stored:
    """A tensor that has not been read yet."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.size) != len(self.stride) or len(self.size) > 32:
            raise ValueError("a tensor of too many dimensions")
        if not all(
            type(n) is int and 0 <= n < 1 << 48 for n in (self.offset, *self.size, *self.stride)
        ):
            raise ValueError("a tensor with an impossible shape")

    @property
    def numel(self) -> int:
        return math.prod(self.size)


@dataclass
class Content:
    """A checkpoint file: its objects, with tensors still to be read, and the names that were not
    called.
    """

    top: object
    kind: str
    read: Callable[[Storage], bytearray]
    storage_bytes: int
    inert: set[str]

    def tensors(self, wanted: dict[str, Stored]) -> dict[str, Tensor]:
        """Read tensors; shapes and strides are checked against the true length of their storages
        first.

        Entries that share one tensor get one tensor.
        """
        if (
            sum(one.numel * one.dtype.itemsize for one in set(wanted.values()))
            > 4 * self.storage_bytes + 1024
        ):
            raise ValueError("its tensors are far larger than the file")
        done: dict[Stored, Tensor] = {}
        storage, data = None, bytearray()
        # In the order of storages, so that each is read once and only one is held.
        for one in sorted(set(wanted.values()), key=lambda one: one.storage.key):
            whole = one.storage.length * one.storage.dtype.itemsize // one.dtype.itemsize
            last = one.offset + sum(
                (n - 1) * step for n, step in zip(one.size, one.stride, strict=True)
            )
            if one.numel == 0:
                done[one] = torch.zeros([min(n, 1 << 20) for n in one.size], dtype=one.dtype)
                continue
            # A stride of 0 would let a few bytes stand for any amount of memory.
            if last >= whole or one.numel > whole:
                raise ValueError("a tensor reaches beyond its storage")
            if one.storage != storage:
                storage, data = one.storage, self.read(one.storage)
                if len(data) < storage.length * storage.dtype.itemsize:
                    raise ValueError("it ends before its tensors do")
            # A bool byte other than 0 and 1 would be undefined.
            raw = torch.frombuffer(
                data, dtype=torch.uint8 if one.dtype is torch.bool else one.dtype
            )
            view = raw.as_strided(one.size, one.stride, one.offset)
            done[one] = (
                view.ne(0)
                if one.dtype is torch.bool
                else view.clone(memory_format=torch.contiguous_format)
            )
        return {key: done[one] for key, one in wanted.items()}


class _Bounded:
    """A file that never reads more than it has, nor more than one pickle may hold."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.left, self.tell = file, min(size - file.tell(), MAX_PICKLE), file.tell

    def read(self, n: int) -> bytes:
        data = self.file.read(min(n, self.left))
        self.left -= len(data)
        return data

    def readline(self) -> bytes:
        data = self.file.readline(min(self.left, 1 << 16))
        self.left -= len(data)
        return data


def _put(target: object, pairs: list[Any]) -> None:
    if isinstance(target, Inert) and target.items is None:
        target.items = {}
    mapping = target.items if isinstance(target, Inert) else target
    if not isinstance(mapping, dict) or len(pairs) % 2:
        raise ValueError("items set on something that holds none")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        # Only keys whose hash is cheap and cannot be chosen: nested tuples can be made to hash for
        # years.
        if isinstance(key, str) or (isinstance(key, int) and 0 <= key < 1 << 31):
            mapping[key] = value


def _made(call: Any, args: Any) -> object:
    """What `call(*args)` stands for: a container or a tensor of the few known kinds, else an
    Inert.
    """
    name = call.name if isinstance(call, Inert) else "an object"
    given = args if isinstance(args, tuple) else ()
    if name in (
        "collections.OrderedDict",
        "collections.defaultdict",
        "builtins.dict",
        "__builtin__.dict",
    ):
        made: dict[Any, Any] = {}
        if given and isinstance(given[0], list):
            _put(made, [item for pair in given[0] for item in pair[:2]])
            given[0].clear()  # or one list, called for again and again, would fill the memory
        return made
    if name in (
        "torch.Size",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
    ):
        return given[0]
    if (
        name == "torch._tensor._rebuild_from_type_v2"
        and given[0].name == "torch._utils._rebuild_tensor_v2"
    ):
        call, given = given[0], given[2]
        name = call.name
    if name in (
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
    ):
        storage, offset, size, stride = given[:4]
        if not isinstance(storage, Storage) or len(size) > 32:
            raise ValueError("a tensor without a storage, or of too many dimensions")
        dtype: Any = storage.dtype
        if name.endswith("v3"):
            dtype = getattr(torch, given[6].name.removeprefix("torch."), None)
            if not isinstance(dtype, torch.dtype):
                raise ValueError("a tensor of an unknown type")
        return Stored(storage, dtype, offset + storage.offset, tuple(size), tuple(stride))
    return Inert(name)


def _storage(pid: object) -> object:
    """A persistent id's object; torch's are ('storage', class, key, device, length[, view]) and
    ('module', …).
    """
    if not isinstance(pid, tuple) or len(pid) < 2 or not isinstance(pid[1], Inert):
        raise ValueError("a persistent id that is not torch's")
    if pid[0] == "module":
        return pid[1]
    kind, key, length = pid[1].name.rpartition(".")[2], pid[2], pid[4]
    if (
        kind not in _DTYPES
        or not isinstance(key, str)
        or type(length) is not int
        or not 0 <= length < 1 << 48
    ):
        raise ValueError(f"a storage of an unknown kind ({kind[:40]})")
    view = pid[5][1] if len(pid) > 5 and pid[5] else 0
    return Storage(key, _DTYPES[kind], length, view)


def run(file: Any, inert: set[str], storages: dict[str, Storage]) -> Any:
    """Interpret one pickle from `file`.

    Args:
        file: with read and readline, at the pickle's beginning.
        inert: is added the names that were asked for and not called.
        storages: is added what the tensors lie in.

    Raises:
        ValueError: not a pickle, cut short, or one that asks for what no checkpoint needs.
    """
    stack: list[Any] = []
    marks: list[list[Any]] = []
    memo: dict[int, Any] = {}

    def named(module: object, name: object) -> Inert:
        full = (
            f"{module[:60]}.{name[:60]}"
            if isinstance(module, str) and isinstance(name, str)
            else "an object"
        )
        tame = full.startswith(_TAME) or full.rpartition(".")[2] in _DTYPES
        if not tame and len(inert) < 1000:
            inert.add(full)
        return Inert(full)

    arg: Any
    try:
        for step, (opcode, arg, _) in enumerate(pickletools.genops(file)):
            if step > MAX_STEPS:
                raise ValueError("far longer than a checkpoint's")
            match opcode.name:
                case "PROTO" | "FRAME":
                    pass
                case "STOP":
                    return stack.pop()
                case "BINPUT" | "LONG_BINPUT" | "PUT":
                    memo[arg] = stack[-1]
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case "BINGET" | "LONG_BINGET" | "GET":
                    stack.append(memo[arg])
                case "NONE":
                    stack.append(None)
                case "NEWTRUE" | "NEWFALSE":
                    stack.append(opcode.name == "NEWTRUE")
                case "MARK":
                    marks.append(stack)
                    stack = []
                case "TUPLE" | "LIST" | "DICT" | "FROZENSET":
                    items, stack = stack, marks.pop()
                    made: Any = tuple(items) if opcode.name in ("TUPLE", "FROZENSET") else items
                    if opcode.name == "DICT":
                        made = {}
                        _put(made, items)
                    stack.append(made)
                case "EMPTY_TUPLE":
                    stack.append(())
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    n = int(opcode.name[-1])
                    if len(stack) < n:
                        raise ValueError("an empty stack")
                    stack[-n:] = [tuple(stack[-n:])]
                case "EMPTY_LIST" | "EMPTY_SET":
                    stack.append([])
                case "EMPTY_DICT":
                    stack.append({})
                case "APPEND" | "APPENDS" | "ADDITEMS":
                    items = [stack.pop()] if opcode.name == "APPEND" else stack
                    stack = stack if opcode.name == "APPEND" else marks.pop()
                    if isinstance(stack[-1], list):
                        stack[-1].extend(items)
                case "SETITEM":
                    value, key = stack.pop(), stack.pop()
                    _put(stack[-1], [key, value])
                case "SETITEMS":
                    items, stack = stack, marks.pop()
                    _put(stack[-1], items)
                case "GLOBAL":
                    stack.append(named(*arg.split(" ", 1)))
                case "STACK_GLOBAL":
                    name, module = stack.pop(), stack.pop()
                    stack.append(named(module, name))
                case "REDUCE" | "NEWOBJ":
                    args, call = stack.pop(), stack.pop()
                    stack.append(_made(call, args))
                case "NEWOBJ_EX":
                    _, args, call = stack.pop(), stack.pop(), stack.pop()
                    stack.append(_made(call, args))
                case "INST" | "OBJ":
                    items, stack = stack, marks.pop()
                    call = named(*arg.split(" ", 1)) if opcode.name == "INST" else items.pop(0)
                    stack.append(_made(call, tuple(items)))
                case "BUILD":
                    state = stack.pop()
                    if isinstance(stack[-1], Inert):
                        stack[-1].state = state
                case "BINPERSID":
                    stack.append(_storage(stack.pop()))
                    if isinstance(stack[-1], Storage):
                        storages[stack[-1].key] = stack[-1]
                case "POP":
                    if stack:
                        stack.pop()
                    else:
                        stack = marks.pop()
                case "POP_MARK":
                    stack = marks.pop()
                case "DUP":
                    stack.append(stack[-1])
                case "EXT1" | "EXT2" | "EXT4":
                    stack.append(named("copyreg", f"extension_{arg}"))
                case "PERSID" | "NEXT_BUFFER" | "READONLY_BUFFER":
                    raise ValueError(f"{opcode.name} has no place in a checkpoint")
                # what is left are numbers, strings and bytes, which pickletools has decoded
                case _:
                    stack.append(arg)
    except _FAULTS as error:
        raise ValueError(f"not a readable pickle ({error})") from None
    raise ValueError("not a readable pickle (no end)")


def read_zip(archive: zipfile.ZipFile) -> Content:
    """A file of `torch.save` since 1.6, or a TorchScript archive."""
    pickles = [
        name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")
    ]
    if len(pickles) != 1:
        raise ValueError("not a torch checkpoint: it holds no data.pkl")
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

    def read(storage: Storage) -> bytearray:
        with archive.open(f"{root}data/{storage.key}") as file:
            return bytearray(file.read(storage.length * storage.dtype.itemsize))

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
        head = file.read(8)
        if key not in storages or len(head) < 8:
            break
        length = struct.unpack("<q", head)[0]
        places[key] = file.tell() if length == storages[key].length else -1
        file.seek(
            length * storages[key].dtype.itemsize if 0 <= length < 1 << 48 else size, io.SEEK_CUR
        )

    def read(storage: Storage) -> bytearray:
        place, wanted = places.get(storage.key, -1), storage.length * storage.dtype.itemsize
        if place < 0 or place + wanted > size:
            raise ValueError("it ends before its tensors do")
        file.seek(place)
        return bytearray(file.read(wanted))

    return Content(top, "torch file of before 1.6", read, size, inert)
