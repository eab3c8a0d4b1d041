"""The reader of torch files builds only tensors and containers."""

import copyreg
import gzip
import io
import json
import marshal
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from nbhelpers.checkpoints import read_weights


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4), linear=nn.Linear(4, 2))
    )


STATE = network().state_dict()
ROBUSTNESS = {
    "model": {
        **{f"module.model.{key}": value for key, value in STATE.items()},
        **{f"module.attacker.model.{key}": value for key, value in STATE.items()},
        **{
            f"module.{part}.new_{kind}": torch.tensor(values)[:, None, None]
            for part in ("normalizer", "attacker.normalize")
            for kind, values in (("mean", [0.4, 0.5, 0.6]), ("std", [0.2, 0.3, 0.25]))
        },
    },
    "optimizer": {
        "state": {0: {"momentum_buffer": torch.ones(7)}},
        "param_groups": [{"lr": 0.1, "params": [0]}],
    },
    "schedule": None,
    "epoch": 7,
    "nat_prec1": torch.tensor(90.0),
}


class Call:
    """Pickles as a call of a chosen function."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def saved(path: Path, content, *, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def same(state, expected=STATE) -> bool:
    return state.keys() == expected.keys() and all(
        torch.equal(state[key], expected[key]) for key in expected
    )


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {f"module.{key}": value for key, value in STATE.items()},
        {"state_dict": {f"module.model.{key}": value for key, value in STATE.items()}},
        {"model": {f"module.model.model.{key}": value for key, value in STATE.items()}},
        {"mu": torch.tensor([0.4, 0.5, 0.6]), "sigma": torch.ones(1, 3, 1, 1)} | STATE,
        {
            "net": {
                key: nn.Parameter(value) if value.is_floating_point() else value
                for key, value in STATE.items()
            }
        },
        ROBUSTNESS,
        network(),
        nn.DataParallel(network()),
        {"model": network(), "epoch": 2},
    ],
)
def test_every_layout_gives_bare_keys(tmp_path, content, legacy):
    weights = read_weights(saved(tmp_path / "file.pt", content, legacy=legacy))
    assert same(weights.state), weights.report


def test_robustness_layout_is_reported(tmp_path):
    weights = read_weights(saved(tmp_path / "file.pt", ROBUSTNESS))
    assert weights.mean == pytest.approx((0.4, 0.5, 0.6)) and weights.std == pytest.approx(
        (0.2, 0.3, 0.25)
    )
    for part in (
        "module.model.* -> *, 9 tensors",
        "dropped: 9",
        "new_mean -> mean",
        "under 'model'",
        "epoch = 7",
    ):
        assert part in weights.report
    assert "not run" not in weights.report


def test_two_networks_in_one_file_are_refused(tmp_path):
    model = dict(ROBUSTNESS["model"]) | {"module.attacker.model.linear.bias": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"copy of 'linear.bias' is not the model's"):
        read_weights(saved(tmp_path / "file.pt", {"model": model}))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_becomes_float32(tmp_path, dtype):
    half = {
        key: value.to(dtype) if value.is_floating_point() else value for key, value in STATE.items()
    }
    weights = read_weights(saved(tmp_path / "file.pt", half))
    assert {value.dtype for value in weights.state.values()} == {torch.float32, torch.int64}
    assert f"{dtype}".removeprefix("torch.") + " -> float32" in weights.report
    assert same(
        weights.state,
        {k: v.to(torch.float32) if v.is_floating_point() else v for k, v in half.items()},
    )


def test_views_and_shared_storages(tmp_path):
    base = torch.arange(24.0)
    state = {
        "a": base[2:8],
        "b": base.view(4, 6).t(),
        "c": base,
        "scalar": torch.tensor(3.0),
        "none": torch.empty(0, 3),
    }
    for legacy in (False, True):
        assert same(
            read_weights(saved(tmp_path / f"{legacy}.pt", state, legacy=legacy)).state, state
        )


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated; files of it are not
def test_torchscript_gives_its_weights(tmp_path):
    torch.jit.trace(network()[:2].eval(), torch.zeros(1, 3, 5, 5)).save(tmp_path / "file.pt")
    weights = read_weights(tmp_path / "file.pt")
    assert (
        torch.equal(weights.state["conv.weight"], STATE["conv.weight"])
        and "TorchScript" in weights.report
    )


def test_what_is_packed_or_sharded_says_so(tmp_path):
    whole = saved(tmp_path / "file.pt", ROBUSTNESS)
    with zipfile.ZipFile(tmp_path / "file.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(whole, "folder/file.pt")
    (tmp_path / "file.pt.gz").write_bytes(gzip.compress(whole.read_bytes()))
    (tmp_path / "index.json").write_text(json.dumps({"weight_map": {"a": "1.bin"}}))
    for name, hint in (("file.zip", "unpack it"), ("file.pt.gz", "unpack it"), ("index.json", "")):
        with pytest.raises(ValueError, match=rf"{name} cannot be read as a checkpoint: .*{hint}"):
            read_weights(tmp_path / name)


def test_versions_of_modules_come_along_under_the_networks_names(tmp_path):
    for prefix in ("", "module.", "module.model."):
        state = OrderedDict((f"{prefix}{key}", value) for key, value in STATE.items())
        state._metadata = OrderedDict(
            {prefix.removesuffix("."): {"version": 3}, f"{prefix}bn": {"version": 2}, "x": {}}
        )
        for legacy in (False, True):
            path = saved(tmp_path / "file.pt", {"state_dict": state}, legacy=legacy)
            weights = read_weights(path)
            assert same(weights.state) and weights.versions == {"": 3, "bn": 2}
    assert read_weights(saved(tmp_path / "file.pt", dict(STATE))).versions == {}


class Holding(nn.Module):
    """Has tensors outside its state dict."""

    def __init__(self):
        super().__init__()
        self.inner = network()
        self.inner.bn.register_buffer("passing", torch.ones(2), persistent=False)
        self.register_buffer("kept", torch.ones(3))
        self.attribute, self.listed = torch.zeros(4), [torch.zeros(5), nn.Linear(2, 2)]


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_network_pickled_whole_gives_its_state_dict(tmp_path, protocol):
    """Has no non-persistent buffers and no tensor attributes."""
    holding = Holding()
    for legacy, wrapped in ((False, holding), (True, nn.DataParallel(holding))):
        torch.save(
            wrapped,
            tmp_path / "file.pt",
            pickle_protocol=protocol,
            _use_new_zipfile_serialization=not legacy,
        )
        assert same(read_weights(tmp_path / "file.pt").state, holding.state_dict())


def crafted(path: Path, pickled: bytes, members: dict[str, bytes] | None = None, **options) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in {
            "file/data.pkl": pickled,
            "file/version": b"3\n",
            **(members or {}),
        }.items():
            archive.writestr(name, data)
    return path


def code_object() -> bytes:
    """A lambda as dill pickles it, in hand-written opcodes: marshalled code and its rebuilder."""
    data = marshal.dumps(compile("__import__('os').system('touch $MARK')", "x", "eval"))
    return b"\x80\x02cdill._dill\n_unmarshal\nB" + struct.pack("<I", len(data)) + data + b"\x85R"


def test_code_runs_nowhere_and_is_named(tmp_path, monkeypatch):
    mark = tmp_path / "ran"
    monkeypatch.setenv("MARK", str(mark))
    touch = f"touch {mark}"
    nested = Call(eval, Call(str.format, "open({!r}, 'w')", str(mark)))
    attacks = {
        "posix.system": Call(os.system, touch),
        ".eval": Call(eval, f"open({str(mark)!r}, 'w')"),
        ".exec": Call(exec, f"open({str(mark)!r}, 'w')"),
        ".Popen": Call(subprocess.Popen, ["touch", str(mark)]),
        ".getattr": nested,
        "nbhelpers.checkpoints.readers.read_weights": Call(read_weights, str(mark)),
    }
    for name, attack in attacks.items():
        for legacy in (False, True):
            weights = read_weights(
                saved(tmp_path / "file.pt", {"model": STATE, "extra": attack}, legacy=legacy)
            )
            assert same(weights.state) and name in weights.report, weights.report
            # also as a tensor, as the state dict, and as the whole file
            weights = read_weights(
                saved(tmp_path / "file.pt", {"model": {**STATE, "more": attack}}, legacy=legacy)
            )
            assert same(weights.state) and name in weights.report
            with pytest.raises(ValueError, match=f"not run: .*{name}"):
                read_weights(saved(tmp_path / "file.pt", attack, legacy=legacy))
    assert not mark.exists()


def test_hand_written_opcodes_run_nothing(tmp_path, monkeypatch):
    mark = tmp_path / "ran"
    monkeypatch.setenv("MARK", str(mark))
    monkeypatch.setitem(copyreg._inverted_registry, 240, ("os", "system"))
    monkeypatch.setitem(copyreg._extension_cache, 240, os.system)
    call = b"S'touch $MARK'\n"
    for pickled in (
        b"cos\nsystem\n(" + call + b"tR.",
        b"(" + call + b"ios\nsystem\n.",
        b"(cos\nsystem\n" + call + b"o.",
        b"\x80\x02cos\nsystem\n(" + call + b"t\x81.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93(" + call + b"t}\x92.",
        b"\x80\x02cbuiltins\nmap\ncos\nsystem\n]" + call + b"a\x86R]q\x00.",
        b"\x80\x02}cos\nsystem\n}U\x0c__setstate__cos\nsystem\nsb.",
        b"\x80\x02cos\nsystem\n" + call + b"bcos\nsystem\n" + call + call + b"s.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02\x82\xf0(" + call + b"tR.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + call + b"tR.",
        b"\x80\x02ctorch\nos\n.",
        b"\x80\x02ctorch\nhub\n(" + call + b"tR.",
        b"\x80\x04\x8c\x05torch\x8c\x08hub.load\x93(" + call + b"tR.",
        code_object() + b".",
        code_object() + b")R.",
    ):
        with pytest.raises(ValueError, match=r"file\.pt"):
            read_weights(crafted(tmp_path / "file.pt", pickled))
    assert not mark.exists()


def test_nothing_that_a_file_names_is_altered(tmp_path):
    """BUILD sets attributes, even of a rebuild function, which would affect later files."""
    names = (b"torch._utils\n_rebuild_tensor_v2", b"torch\nfloat32", b"collections\nOrderedDict")
    for named in names:
        for key in (b"__defaults__", b"__code__", b"__dict__", b"__call__"):
            attributes = b"}U" + bytes([len(key)]) + key + b")s"
            for state in (attributes, b"N" + attributes + b"\x86"):
                path = crafted(tmp_path / "bad.pt", b"\x80\x02c" + named + b"\n" + state + b"b.")
                with pytest.raises(ValueError, match=r"bad\.pt"):
                    read_weights(path)
    assert same(read_weights(saved(tmp_path / "file.pt", STATE)).state)
    assert OrderedDict(a=1) == {"a": 1}


def dumped(content, storages: dict[str, tuple[str, int]]) -> bytes:
    """Pickle with chosen persistent ids, for tensors with false metadata."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, one):
            if isinstance(one, str) and one in storages:
                kind, length = storages[one]
                return ("storage", getattr(torch, kind), "0", "cpu", length)
            return None

    file = io.BytesIO()
    Pickler(file, 2).dump(content)
    return file.getvalue()


def lying(size, stride, length=4, offset=0):
    rebuild = Call(
        torch._utils._rebuild_tensor_v2, "here", offset, size, stride, False, OrderedDict()
    )
    return dumped({"w": rebuild}, {"here": ("FloatStorage", length)})


@pytest.mark.parametrize(
    "pickled",
    [
        lying((1 << 30,), (0,)),
        lying((1 << 40, 1 << 40), (0, 0)),
        lying((5,), (1,)),
        lying((4,), (1,), offset=1),
        lying((4,), (1,), length=1 << 40),
        lying((4,), (-1,), offset=3),
        lying((2, 2), (1,)),
        lying((1,) * 3000, (1,) * 3000),
        lying(tuple(range(0)), ("a",)),
    ],
)
def test_tensors_that_lie_are_refused(tmp_path, pickled):
    path = crafted(tmp_path / "file.pt", pickled, {"file/data/0": bytes(16)})
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        read_weights(path)


HOSTILE = {
    "memo index": b"\x80\x02Nr\xff\xff\xff\xffr\x00\x00\x00\x7f.",
    "bytes length": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 50) + b"x.",
    "bytearray length": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.",
    "string length": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"x.",
    "long length": b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1) + b"\x01.",
    "negative long": b"\x80\x02\x8b" + struct.pack("<i", -5) + b"\x01.",
    "decimal": b"L" + b"9" * 60000 + b"L\n.",
    "deep lists": b"\x80\x02" + b"]" * 500_000 + b"a" * 499_999 + b".",
    "deep tuples as a key": b"\x80\x02}" + b")" + b"\x85" * 500_000 + b"Ns.",
    "doubling tuples as a key": b"\x80\x02})" + b"2\x86" * 5000 + b"Ns.",
    "doubling state": b"\x80\x02ca\nb\n)R"
    + b"2}X\x01\x00\x00\x00ah\x00sX\x01\x00\x00\x00bh\x00s" * 10
    + b".",
    ("one long list as many dicts"): b"\x80\x02ccollections\nOrderedDict\nq\x00]("
    + b"NN\x86" * 50_000
    + b"eq\x01"
    + b"h\x00h\x01\x85R0" * 50_000
    + b"N.",
    "endless opcodes": b"\x80\x02" + b"N" * 3_000_000 + b".",
    "big integer keys": b"\x80\x02}\x8b"
    + struct.pack("<i", 1 << 20)
    + b"\x01" * (1 << 20)
    + b"q\x00"
    + b"h\x00Ns" * 50_000
    + b".",
    "calls with one long tuple": b"\x80\x02ca\nb\nq\x00("
    + b"N" * 100_000
    + b"tq\x010"
    + b"h\x00h\x01R0" * 50_000
    + b"N.",
    "frames": b"\x80\x04" + (b"\x95" + struct.pack("<Q", 1 << 60)) * 3 + b"N.",
    "frames of opcodes": b"\x80\x04\x95" + struct.pack("<Q", 2_100_000) + b"N" * 2_100_000 + b".",
    "doubling tuples as a member": b"\x80\x04\x8f()" + b"2\x86" * 5000 + b"\x90.",
    "doubling tuples in a frozen set": b"\x80\x04()" + b"2\x86" * 5000 + b"\x91.",
    "doubling tuples as a key of a dict": b"(()" + b"2\x86" * 5000 + b"Nd.",
    "deep tuples set on an object": b"ca\nb\n)R(" + b")" + b"\x85" * 200_000 + b"Nu.",
    "no end": b"\x80\x02}",
    "empty stack": b"\x80\x02.",
    "only marks": b"(((((e.",
    "nothing": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_at_once(tmp_path, name):
    with pytest.raises(ValueError, match=r"file\.pt cannot be read as a checkpoint"):
        read_weights(crafted(tmp_path / "file.pt", HOSTILE[name]))


def test_module_that_refers_to_itself(tmp_path):
    module = network()
    module.again = module  # a cycle
    chain = nn.Module()
    for _ in range(40):  # 2^40 paths
        outer = nn.Module()
        outer.a = outer.b = chain
        chain = outer
    for one in (module, chain):
        path = tmp_path / "file.pt"
        torch.save({"module": one, "cycle": [module]}, path)
        torch.save(one, path)
        with pytest.raises(ValueError, match=r"larger than any network|without a state dict"):
            read_weights(path)


def test_zip_bombs_are_refused(tmp_path):
    bombs = {
        "deflated": crafted(
            tmp_path / "1",
            b"N.",
            {"file/data/0": bytes(80 << 20)},
            compression=zipfile.ZIP_DEFLATED,
        ),
        "bzip2": crafted(
            tmp_path / "2", b"N.", {"file/data/0": bytes(1 << 20)}, compression=zipfile.ZIP_BZIP2
        ),
        "pickle": crafted(tmp_path / "3", b"N" * (70 << 20), compression=zipfile.ZIP_DEFLATED),
    }
    nested = io.BytesIO()
    with zipfile.ZipFile(nested, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.pt", (tmp_path / "1").read_bytes())
    bombs["nested"] = tmp_path / "4"
    bombs["nested"].write_bytes(nested.getvalue())
    bombs["gzip"] = tmp_path / "5.gz"
    bombs["gzip"].write_bytes(gzip.compress(bytes(70 << 20), 1))
    for name, path in bombs.items():
        with pytest.raises(ValueError, match=r"cannot be read"):
            print(name, read_weights(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>Sign in</html>", "HTML page"),
        (b"\n  <html><body>404", "HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "Git LFS pointer"),
        (b"", "an empty file"),
        (b"hello", "neither a file of torch.save nor safetensors"),
        (b"\x80\x04N.", "not a readable pickle|that torch.save did not write"),
        (b"PK\x03\x04 and no more", "not a zip file"),
        (struct.pack("<Q", 1 << 40) + b"{}", "header"),
    ],
)
def test_files_that_are_no_weights(tmp_path, content, message):
    path = tmp_path / "file.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_weights(path)
    assert "file.pt" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_anywhere(tmp_path, kind):
    path = tmp_path / "file.pt"
    if kind == "safetensors":
        safetensors.torch.save_file(STATE, path)
    else:
        saved(path, ROBUSTNESS, legacy=kind == "legacy")
    whole = path.read_bytes()
    for end in range(0, len(whole) - 1, max(1, len(whole) // 97)):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"file\.pt"):
            read_weights(path)


def test_missing_files_say_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_weights(tmp_path / "nothing.pt")
    with pytest.raises(IsADirectoryError):
        read_weights(tmp_path)


FUZZ = """
import random, resource, sys, time
from pathlib import Path
from nbhelpers.checkpoints import read_weights
folder, seed, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
rng = random.Random(seed)
opcodes = b"(.012FIKNRabcdeghjloqrstu]}\\x80\\x81\\x85\\x86\\x87\\x8a\\x8b\\x93\\x95\\xff"
seeds = [path.read_bytes() for path in sorted(folder.glob("seed*"))]
path = folder / f"fuzzed{seed}"
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
at = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (at + (1 << 30), at + (1 << 30)))
for hostile in folder.glob("hostile*"):
    try:
        read_weights(hostile)
    except ValueError as error:
        assert str(hostile) in str(error)
    else:
        raise AssertionError(hostile)
runs = read = 0
end = time.monotonic() + seconds
slowest = 0
while time.monotonic() < end:
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 5, 40))):
        where, what = rng.randrange(len(data)), rng.randrange(5)
        if what == 0:
            data[where] = rng.randrange(256)
        elif what == 1:
            data[where] ^= 1 << rng.randrange(8)
        elif what == 2:
            del data[where : where + rng.randrange(1, 9)]
        elif what == 3:
            data[where:where] = bytes(rng.choices(opcodes, k=4))
        else:
            there = rng.randrange(len(data))
            data[where : where + 8] = data[there : there + 8]
    path.write_bytes(data)
    before = time.monotonic()
    try:
        read_weights(path)
        read += 1
    except ValueError as error:
        assert str(path) in str(error) and len(str(error)) < 2000
    slowest = max(slowest, time.monotonic() - before)
    runs += 1
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used
print(runs, read, round(slowest, 2), grown // 1024)
"""


@pytest.mark.long
def test_mutated_files_end_in_an_error_or_weights(tmp_path):
    """Random edits raise only ValueError, quickly, within a memory limit."""
    small = {
        "model": dict(list(ROBUSTNESS["model"].items())[:4]),
        "epoch": 7,
        "extra": Call(os.system, "exit 3"),
    }
    for number, pickled in enumerate(HOSTILE.values()):
        crafted(tmp_path / f"hostile{number}", pickled)
    saved(tmp_path / "seed1", small)
    saved(tmp_path / "seed2", small, legacy=True)
    saved(tmp_path / "seed3", network())
    safetensors.torch.save_file(STATE, tmp_path / "seed4")
    # Mutate the pickle alone: others only break the zip file's checksums.
    with zipfile.ZipFile(tmp_path / "seed1") as archive:
        pickled = archive.read("seed1/data.pkl")
    legacy = (tmp_path / "seed2").read_bytes()
    (tmp_path / "seed5").write_bytes(legacy[: len(legacy) - 600])
    command = [
        sys.executable,
        "-c",
        FUZZ,
        str(tmp_path),
        "0",
        os.environ.get("NBHELPERS_FUZZ_SECONDS", "4"),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    runs, _, slowest, grown = map(float, done.stdout.split())
    assert runs > 100 and slowest < 3 and grown < 512
    rng = random.Random(0)
    for _ in range(300):
        data = bytearray(pickled)
        for _ in range(rng.choice((1, 2, 8))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            read_weights(
                crafted(
                    tmp_path / "file.pt",
                    bytes(data),
                    {f"file/data/{i}": bytes(500) for i in range(5)},
                )
            )
        except ValueError as error:
            assert "file.pt" in str(error)
