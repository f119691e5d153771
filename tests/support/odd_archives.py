"""Zip archives of weights on which readers disagree, made under a seed, and what must hold of each.

`make campaign JOBS=archives ARGS="10000 --seed 0"` is the long campaign; a test takes a few hundred. No archive runs
code: each one is refused by one line, or loads, and what was made of weights loads equal to the bit.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import struct
import tempfile
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from fuzzing import refusal
from torch import Tensor

from bandlens.export.weights.read import read

ALIGNMENT = 64
MOST_16, MOST_32 = 0xFFFF, 0xFFFFFFFF
END, END64, LOCATOR = b"PK\5\6", b"PK\6\6", b"PK\6\7"


@dataclass
class Entry:
    """One member of an archive, and what its local header and its row of the directory say otherwise than torch's."""

    name: bytes
    data: bytes
    local: dict[str, Any] = field(default_factory=dict)
    row: dict[str, Any] = field(default_factory=dict)
    gap: bytes = b""
    """Bytes in front of the local header."""
    at: int = 0
    """The place of the local header, as soon as it is written."""


@dataclass
class Archive:
    """Members, and what lies around them and their directory."""

    entries: list[Entry]
    prefix: bytes = b""
    shifted: bool = True
    """Whether offsets count the prefix."""
    hidden: list[tuple[Entry, bytes]] = field(default_factory=list)
    """The rows of a second directory, which lies behind the first one: members, and the names that it gives them."""
    pointer: int = 0
    """The directory that the end record (bit 0) and the zip64 record before it (bit 1) point to."""
    zip64: bool = True
    strayed: bool = False
    """Whether the locator points to a zip64 record of its own, which lies before the one in front of it."""
    comment: bytes = b""
    end: dict[str, int] = field(default_factory=dict)
    """Fields of the end record that are changed: count, size, start, comment."""
    suffix: bytes = b""


def entries_of(content: bytes) -> list[Entry]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [Entry(member.filename.encode(), archive.read(member)) for member in archive.infolist()]


def local_header(entry: Entry) -> bytes:
    """An archive as torch writes it: sizes are in the descriptor behind the data, and padding aligns the data."""
    fields = {"flags": 0x0808 if entry.data else 0x0800, "method": 0, "crc": 0, "packed": 0, "size": 0} | entry.local
    name = fields.get("name", entry.name)
    extra = fields.get("extra")
    if extra is None:
        padding = -(entry.at + 30 + len(name) + 4) % ALIGNMENT
        extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    head = (0, fields["flags"], fields["method"], 0, 0, fields["crc"], fields["packed"], fields["size"])
    return b"PK\3\4" + struct.pack("<5H3I2H", *head, len(name), len(extra)) + name + extra


def descriptor(entry: Entry) -> bytes:
    if "descriptor" in entry.local:
        return bytes(entry.local["descriptor"])
    size = len(entry.data)
    return b"PK\7\10" + struct.pack("<3I", zlib.crc32(entry.data), size, size) if entry.data else b""


def row_of_directory(entry: Entry, name: bytes, shift: int) -> bytes:
    size = len(entry.data)
    fields = {
        "flags": 0x0808 if size else 0x0800,
        "method": 0,
        "crc": zlib.crc32(entry.data),
        "packed": size,
        "size": size,
        "offset": entry.at + shift & MOST_32,
        "name": name,
        "extra": b"",
        "comment": b"",
    } | entry.row
    lengths = len(fields["name"]), len(fields["extra"]), len(fields["comment"])
    head = (0, 0, fields["flags"], fields["method"], 0, 0, fields["crc"], fields["packed"], fields["size"])
    tail = (*lengths, 0, 0, 0, fields["offset"])
    words = struct.pack("<6H3I5H2I", *head, *tail)
    return b"PK\1\2" + words + fields["name"] + fields["extra"] + fields["comment"]


def written(archive: Archive) -> bytes:
    out = bytearray(archive.prefix)
    for entry in archive.entries:
        out += entry.gap
        entry.at = len(out)
        out += local_header(entry) + entry.data + descriptor(entry)
    shift = 0 if archive.shifted else -len(archive.prefix)
    directories = []
    listed = [(entry, entry.name) for entry in archive.entries if "absent" not in entry.row]
    for members in (listed, archive.hidden) if archive.hidden else (listed,):
        rows = b"".join(row_of_directory(entry, name, shift) for entry, name in members)
        directories.append((len(members), len(rows), len(out) + shift))
        out += rows
    short, wide = (directories[min(archive.pointer >> bit & 1, len(directories) - 1)] for bit in (0, 1))
    if archive.zip64:
        stray = len(out)
        if archive.strayed:
            out += _end64(*short)
        at = stray if archive.strayed else len(out)
        out += _end64(*wide) + LOCATOR + struct.pack("<IQI", 0, at + shift, 1)
    end = {"count": short[0], "size": short[1], "start": short[2], "comment": len(archive.comment)} | archive.end
    numbers = (end["count"], end["count"], end["size"], end["start"], end["comment"])
    out += END + struct.pack("<4H2IH", 0, 0, *numbers) + archive.comment
    return bytes(out) + archive.suffix


def _end64(count: int, size: int, start: int) -> bytes:
    return END64 + struct.pack("<Q2H2I4Q", 44, 0x31E, 45, 0, 0, count, count, size, start)


# The content of files

STORAGE = torch.arange(24, dtype=torch.float32)
WEIGHTS: dict[str, Any] = {
    "state_dict": {
        "fc.weight": torch.ones(2, 2),
        "view": STORAGE[4:16].view(3, 4).t(),
        "shared": STORAGE,
        "half": torch.ones(2, dtype=torch.float16),
        "brain": torch.arange(3, dtype=torch.bfloat16),
        "count": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "none": torch.zeros(0),
    },
    "epoch": 3,
}


class Calls:
    """Pickles to a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class Writes(torch.nn.Module):
    """A TorchScript program that writes a file as it is loaded."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return (self.path, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path = state[0]
        self.training = state[1]
        torch.save(torch.zeros(1), state[0])


def saved(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def script(marker: Path) -> bytes:
    """A TorchScript archive that writes the marker when torch loads it."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch wants nobody to write them any more; they are still read
        torch.jit.save(torch.jit.script(Writes(str(marker))), file)
    return file.getvalue()


def program(marker: Path) -> bytes:
    """A file of torch.save whose pickle makes the marker, a folder, when Python unpickles it."""
    return saved({"state_dict": {"fc.weight": torch.ones(2, 2)}, "epoch": Calls(os.mkdir, str(marker))})


def assert_equal(actual: Any, expected: Any, case: str) -> None:
    """Equal to the bit: types, layout in memory, and which tensors share it."""
    storages: dict[int, int] = {}

    def compare(value: Any, reference: Any) -> None:
        assert type(value) is type(reference), case
        if isinstance(reference, dict):
            assert list(value) == list(reference), case
            for key in reference:
                compare(value[key], reference[key])
        elif isinstance(reference, (list, tuple)):
            for members in zip(value, reference, strict=True):
                compare(*members)
        elif isinstance(reference, Tensor):
            layouts = [(x.dtype, x.shape, x.stride(), x.storage_offset()) for x in (value, reference)]
            assert layouts[0] == layouts[1], case
            memory, reference_memory = value.untyped_storage(), reference.untyped_storage()
            assert memory.tolist() == reference_memory.tolist(), case
            if reference_memory.nbytes():
                address = storages.setdefault(reference_memory.data_ptr(), memory.data_ptr())
                assert address == memory.data_ptr(), case
        else:
            assert value == reference, case

    compare(actual, expected)
    assert len(set(storages.values())) == len(storages), case


# Changes to archives

Change = Callable[[random.Random, Archive, list[Entry]], None]
"""Changes an archive, given the members of another one, which is a program where the first is weights."""


def _some_bytes(dice: random.Random, donor: list[Entry]) -> bytes:
    length = dice.choice([1, 2, 4, 22, 30, 42, 64, 98, 1000, dice.randrange(60_000, 72_000)])
    fill = dice.choice([bytes(1), b"Z", b"PK", b"PK\5\6" + bytes(18), b"PK\3\4", b"\x80\x02"])
    if dice.random() < 0.3:
        return written(Archive(donor))
    return (fill * (length // len(fill) + 1))[:length]


def prefixed(dice: random.Random, archive: Archive, donor: list[Entry]) -> None:
    archive.prefix, archive.shifted = _some_bytes(dice, donor), dice.random() < 0.5


def suffixed(dice: random.Random, archive: Archive, donor: list[Entry]) -> None:
    archive.suffix = _some_bytes(dice, donor)


def commented(dice: random.Random, archive: Archive, donor: list[Entry]) -> None:
    archive.comment = _some_bytes(dice, donor)[:MOST_16]
    if dice.random() < 0.5:
        archive.end["comment"] = dice.choice([0, 1, len(archive.comment) // 2, MOST_16])


def with_two_directories(dice: random.Random, archive: Archive, donor: list[Entry]) -> None:
    """The second directory lists the other archive's members, or the same ones under names that tell less."""
    if dice.random() < 0.5:
        archive.entries = [*archive.entries, *donor]
        for entry in donor:
            entry.row["absent"] = 1
        archive.hidden = [(entry, entry.name) for entry in donor]
    else:
        archive.hidden = [(entry, entry.name.replace(b"constants", b"constantz")) for entry in archive.entries]
    archive.pointer, archive.zip64 = dice.randrange(4), dice.random() < 0.7
    archive.strayed = dice.random() < 0.5


def with_other_ends(dice: random.Random, archive: Archive, _donor: list[Entry]) -> None:
    archive.zip64 = dice.random() < 0.5
    for name in dice.sample(["count", "size", "start"], dice.randint(0, 3)):
        most = MOST_16 if name == "count" else MOST_32
        archive.end[name] = dice.choice([0, 1, most, most - 1, dice.randrange(most)])


def _entry(dice: random.Random, archive: Archive) -> Entry:
    likely = [entry for entry in archive.entries if entry.name.endswith((b".pkl", b"/0"))] or archive.entries
    return dice.choice(likely if dice.random() < 0.7 else archive.entries)


def with_other_headers(dice: random.Random, archive: Archive, _donor: list[Entry]) -> None:
    entry = _entry(dice, archive)
    name = dice.choice(["name", "flags", "method", "crc", "packed", "size", "extra", "offset", "comment", "descriptor"])
    numbers = [0, 1, 8, 9, 0x0800, MOST_16]
    if name not in ("flags", "method"):
        numbers += [MOST_32, zlib.crc32(entry.data), len(entry.data), len(entry.data) // 2, len(entry.data) + 100]
    value: Any = dice.choice(numbers)
    if name == "name":
        value = dice.choice([b"archive/data.pkl", b"archive/constants.pkl", b"archive/data/0", b"x" * 300, b""])
    elif name == "extra":
        wide = b"\1\0" + struct.pack("<HQQ", 16, len(entry.data), len(entry.data))
        value = dice.choice([b"", wide, b"FB\4\0ZZZz", b"FB\xff\xffZ", b"UT\5\0\3abcd", bytes(3), b"up" + bytes(9)])
    elif name in ("comment", "descriptor"):
        value = dice.choice([b"", b"x", b"PK\1\2", b"PK\7\10" + bytes(12), bytes(24)])
    place = {"offset": entry.row, "comment": entry.row, "descriptor": entry.local}
    place.get(name, dice.choice([entry.local, entry.row]))[name] = value


def with_other_names(dice: random.Random, archive: Archive, donor: list[Entry]) -> None:
    """A second member under the same name, or one that other readers may take for it."""
    entry = _entry(dice, archive)
    name = dice.choice(
        [
            entry.name,
            entry.name.upper(),
            entry.name.title(),
            entry.name + b"\0",
            entry.name.replace(b"/", b"\\"),
            entry.name.replace(b"/", b"//", 1),
            b"/" + entry.name,
            b"../" + entry.name,
            entry.name.partition(b"/")[2],
            b"archive/./data.pkl",
            b"archive/x/../data.pkl",
            b"other/data.pkl",
            b"archive/constants.pkl",
            b"archive/Constants.pkl",
            b"archive/\xff.pkl",
            entry.name + b"/",
        ]
    )
    if dice.random() < 0.5:
        archive.entries.insert(dice.randrange(len(archive.entries) + 1), Entry(name, dice.choice(donor).data))
    else:
        entry.name = name


def with_hidden_members(dice: random.Random, archive: Archive, donor: list[Entry]) -> None:
    """Members that only the local headers or only the directory knows, and gaps between members."""
    choice = dice.randrange(3)
    if choice == 0:
        member = dice.choice(donor)
        archive.entries.insert(dice.randrange(len(archive.entries) + 1), Entry(member.name, member.data))
        dice.choice(archive.entries).row["absent"] = 1
    elif choice == 1:
        dice.choice(archive.entries).gap = _some_bytes(dice, donor)
    else:
        first, second = dice.sample(archive.entries, 2) if len(archive.entries) > 1 else archive.entries * 2
        written(archive)
        first.row["offset"] = second.at
        if dice.random() < 0.5:
            first.row |= {"crc": zlib.crc32(second.data), "size": len(second.data), "packed": len(second.data)}


def with_a_packed_member(dice: random.Random, archive: Archive, _donor: list[Entry]) -> None:
    entry = _entry(dice, archive)
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(entry.data) + packer.flush()
    crc, size = zlib.crc32(entry.data), len(entry.data)
    entry.row = {"method": 8, "crc": crc, "packed": len(packed), "size": size}
    entry.local = {"method": 8, "descriptor": b"PK\7\10" + struct.pack("<3I", crc, len(packed), size)}
    entry.data = packed


CHANGES: list[Change] = [
    prefixed, suffixed, commented, with_two_directories, with_other_ends, with_other_headers, with_other_headers,
    with_other_names, with_hidden_members, with_a_packed_member,
]  # fmt: skip


def made(seed: int, weights: bytes, programs: list[bytes]) -> tuple[bytes, bool, list[str]]:
    """An archive under this seed, whether it was made of weights, and what was done to it."""
    dice = random.Random(seed)
    harmless = dice.random() < 0.6
    evil = entries_of(dice.choice(programs))
    base, donor = (entries_of(weights), evil) if harmless else (evil, entries_of(weights))
    archive, names = Archive(base), []
    for change in dice.sample(CHANGES, dice.choice([0, 1, 1, 1, 2, 3])):
        change(dice, archive, donor)
        names.append(change.__name__)
    content = bytearray(written(archive))
    if not names or dice.random() < 0.15:
        names.append(dice.choice(["cut", "flipped", "flipped"]))
        if names[-1] == "cut":
            del content[dice.randrange(len(content)) :]
        else:
            for _ in range(dice.randint(1, 6)):
                content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    return bytes(content), harmless, names


def readers_disagree(file: Path) -> bool:
    """Whether Python's zipfile and torch's own reader list other members, or only one of them takes the file."""
    try:
        with zipfile.ZipFile(file) as archive:
            listed = sorted(member.filename.partition("/")[2] for member in archive.infolist())
    except Exception:  # every kind of damage  # noqa: BLE001
        listed = None
    try:
        records = sorted(torch._C.PyTorchFileReader(str(file)).get_all_records())
    except Exception:  # every kind of damage  # noqa: BLE001
        records = None
    return listed != records


def load(file: Path) -> list[Any]:
    """The content of the file, or nothing where it is refused."""
    contents: list[Any] = []
    refusal(lambda: contents.append(read(file)))
    return contents


def campaign(count: int, seed: int, folder: Path) -> Counter[str]:
    """Try so many archives; how many loaded, were refused, and read differently by two other readers."""
    marker = folder / "ran"
    weights, programs = saved(WEIGHTS), [script(marker), program(marker)]
    assert not marker.exists()
    assert written(Archive(entries_of(weights))) == weights
    file, results = folder / "weights.pth", Counter[str]()
    for number in range(seed, seed + count):
        content, harmless, names = made(number, weights, programs)
        file.write_bytes(content)
        case = f"seed {number}: {'weights' if harmless else 'program'} {', '.join(names)}"
        contents = load(file)
        assert not marker.exists(), f"{case} ran its program"
        if contents and harmless:
            assert_equal(contents[0], WEIGHTS, case)
        results["loaded" if contents else "refused"] += 1
        results["other readers disagree"] += readers_disagree(file)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=10_000, help="number of archives (default 10000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first one (default 0)")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        results = campaign(options.count, options.seed, Path(folder))
    for name, number in sorted(results.items()):
        print(f"{number:6}  {name}")
    seconds = time.monotonic() - started
    print(f"{options.count:6}  archives from seed {options.seed} in {seconds:.0f} s; none ran its program")


if __name__ == "__main__":
    main()
