"""Weights: read a file safely, name its tensors as the architecture does, and load them strictly."""

from __future__ import annotations

import re
import tarfile
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CheckpointError, some_of
from ...untrusted import first_line
from ..files import html_title
from ..onnx.finished import is_onnx
from .archives import MAGIC, locate_members, read_directory
from .pickles import read_archive, read_legacy
from .registry import KeyRule, ema_names, key_rule

Dropped = dict[str, list[str]]
"""Why -> keys."""


TOP = "top level"
"""The name of a file's own keys, where the tensors lie in no container."""
OTHERS = {
    "an HDF5 file, as Keras writes": (0, b"\x89HDF"),
    "a TensorFlow Lite model": (4, b"TFL3"),
    "a NumPy array": (0, b"\x93NUMPY"),
}
"""What people take for torch's weights, with the bytes that it has at a place."""
DEEPEST = 3
"""Containers in containers that are looked into."""


@dataclass(slots=True)
class Weights:
    """Tensors by the architecture's names, the keys that were left out, and which of the file's weights these are."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    dropped: Dropped = field(default_factory=dict)
    taken: str = TOP
    """The container that they were taken from, such as `state_dict_ema` or `ema.module`."""
    left: list[str] = field(default_factory=list)
    """Other containers of the file that hold all of the same names."""
    averaged: bool = False
    """Whether they are an exponential moving average (EMA) of the weights in training."""


def read(path: Path, trust: bool = False) -> Any:
    """What the file holds: nested mappings with tensors on the CPU.

    safetensors, or a file of `torch.save` in the zip or the older format. `trust` lets a pickle run its code.
    Raises CheckpointError for a file that is missing, damaged, of another library, a web page, a TorchScript program,
    or not to be trusted.
    """
    if not path.is_file():
        raise CheckpointError(f"no weights at {path}; check the path")
    try:
        _refuse_other_kinds(path)
        if _is_safetensors(path):
            from safetensors.torch import load_file

            return load_file(path)
        with path.open("rb") as file:
            spans = None
            if file.read(len(MAGIC)) == MAGIC:
                members = read_directory(file)
                _refuse_other_archives(path, [member.name for member in members])
                spans = locate_members(file, members)
            if not trust:
                return read_legacy(file, path) if spans is None else read_archive(file, spans, path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of what it then reads, or refuses, all the same
            return torch.load(path, map_location="cpu", weights_only=False)
    except CheckpointError:
        raise
    # A damaged file fails in as many ways as there are parsers, and each wants the same answer.
    except Exception as error:
        raise CheckpointError(f"cannot read weights from {path}: {first_line(error)}; fetch the file again") from error


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"  # the length of the JSON header in eight bytes, then the header


def _is_tar(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(tarfile.BLOCKSIZE)
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "replace")
    except tarfile.TarError:
        return False
    return True


def _refuse_other_kinds(path: Path) -> None:
    """CheckpointError for a web page, and for files of other libraries."""
    if is_onnx(path):
        raise CheckpointError(f"{path} is an ONNX file; use --onnx: it needs no architecture")
    with path.open("rb") as file:
        head = file.read(8)
    for kind, (place, sign) in OTHERS.items():
        if head[place:].startswith(sign):
            raise CheckpointError(f"{path} is {kind}; export the network to ONNX with its own library, and use --onnx")
    title = html_title(path)
    if title is not None:
        raise CheckpointError(f"{path} is a web page ('{title}'), not weights; download the file itself")
    if _is_tar(path):
        raise CheckpointError(f"{path} is a tar archive, which torch has not written since 2017; save it with torch")


def _refuse_other_archives(path: Path, names: list[str]) -> None:
    """CheckpointError for a TorchScript program, and for archives of other libraries."""
    if names and all(name.endswith(".npy") for name in names):
        raise CheckpointError(
            f"{path} holds NumPy arrays, not weights of torch; save the module's state_dict() instead"
        )
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(f"{path} is a TorchScript program, not weights; save the module's state_dict() instead")


@dataclass(frozen=True, slots=True)
class Candidate:
    """Named tensors, and what lies beside them, of one container of a file."""

    name: str
    values: Mapping[str, Any]
    averaged: bool


def candidates(content: Mapping[Any, Any]) -> list[Candidate]:
    """Every container in the file that holds tensors, those that lie less deep first.

    Keys that begin with the name of an EMA and a point, as in `ema_model.fc.weight` beside `model.fc.weight`, are a
    container of their own.
    """
    names = ema_names()
    found: list[Candidate] = []
    level: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = [((), content)]
    seen = {id(content)}  # a small file can hold one container a million times
    for _ in range(DEEPEST + 1):
        below = []
        for path, held in level:
            split: dict[str, dict[str, Any]] = {}
            for key, value in held.items():
                if isinstance(value, Mapping) and id(value) not in seen:
                    seen.add(id(value))
                    below.append(((*path, _text_of(key)), value))
                start, point, rest = _text_of(key).partition(".")
                averaged = bool(point) and start in names
                split.setdefault(start if averaged else "", {})[rest if averaged else _text_of(key)] = value
            for start, values in split.items():
                if any(isinstance(value, Tensor) for value in values.values()):
                    whole = (*path, start) if start else path
                    found.append(Candidate(".".join(whole) or TOP, values, any(part in names for part in whole)))
        level = below
    return found


def _text_of(key: Any) -> str:
    """A key as text; what is none and no number may be nested too deeply, or too large, to be written out."""
    return str(key) if isinstance(key, (str, int, float)) else f"<{type(key).__name__}>"


def apply_rule(
    rule: KeyRule, content: Any, where: str, choice: str | None = None, wanted: Collection[str] = ()
) -> Weights:
    """The tensors of `content` under the architecture's names, which `wanted` lists; `where` names the file in errors.

    `choice` is `ema`, `raw`, or the name of a container; left out, it is the EMA where there is one, as timm's loader
    has it. Raises CheckpointError where the file does not hold what is asked for.
    """
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{where} holds one {type(content).__name__} and no named tensors; save the module's state_dict() instead"
        )
    known = candidates(content)
    one = _chosen(rule, content, known, where, choice, wanted)
    weights = Weights(taken=one.name, averaged=one.averaged)
    origin: dict[str, str] = {}
    for key, value in one.values.items():
        why = next((why for pattern, why in rule.drop if re.search(pattern, key)), None)
        if why is None and not isinstance(value, Tensor):
            why = "not a tensor"
        if why is not None:
            weights.dropped.setdefault(why, []).append(key)
            continue
        name = renamed(rule, key, wanted)
        if name in weights.tensors:
            raise CheckpointError(
                f"{where}: two keys become '{name}' by rule '{rule.name}', {origin[name]} and {key}; choose another "
                "key rule, or say with --weights how the keys begin that are meant"
            )
        weights.tensors[name], origin[name] = value.detach(), key
    if not weights.tensors:
        seen = some_of(one.values)
        raise CheckpointError(f"{where}: rule '{rule.name}' finds no tensors among {seen}; choose another key rule")
    weights.left = [
        other.name
        for other in known
        if other.name != one.name and weights.tensors.keys() <= {renamed(rule, key, wanted) for key in other.values}
    ]
    return weights


def _chosen(
    rule: KeyRule,
    content: Mapping[Any, Any],
    known: list[Candidate],
    where: str,
    choice: str | None,
    wanted: Collection[str],
) -> Candidate:
    """The candidate that `choice` names; CheckpointError, with the names of those that there are, if it names none."""
    if choice in (None, "ema"):
        for name in ema_names():
            for one in known:
                # An EMA's decay or counter alone is no network.
                fits = not wanted or any(renamed(rule, key, wanted) in wanted for key in one.values)
                if name in one.name.split(".") and fits:
                    return one
    if choice in (None, "raw"):
        if not known:  # nothing to choose among: what the rule would read, for an error that names its keys
            held = next((content[name] for name in rule.containers if isinstance(content.get(name), Mapping)), content)
            return Candidate(TOP, {_text_of(key): value for key, value in held.items()}, averaged=False)
        for name in (*rule.containers, TOP):
            for one in known:
                if not one.averaged and f"{one.name}.".startswith(f"{name}."):
                    return one
    elif choice != "ema":
        for one in known:
            if f"{one.name}.".startswith(f"{choice}."):
                return one
        for one in known:
            begun = {key: value for key, value in one.values.items() if key.startswith(f"{choice}.")}
            if begun:
                return Candidate(choice, {key[len(choice) + 1 :]: value for key, value in begun.items()}, one.averaged)
    asked = f"no weights '{choice}'" if choice else f"no weights where rule '{rule.name}' looks for them"
    there = ", ".join(one.name for one in known[:5]) or "none of them"
    raise CheckpointError(
        f"{where} holds {asked}, only the keys {some_of(map(_text_of, content))}; "
        f"name with --weights KEY one that holds tensors: {there}"
    )


def renamed(rule: KeyRule, key: str, wanted: Collection[str] = ()) -> str:
    """The architecture's name for a key: by the rule's patterns, and without what wraps it, until it is wanted."""
    for pattern, replacement in rule.rename:
        key = re.sub(pattern, replacement, key)
    while key not in wanted:
        wrapper = next((one for one in rule.wrappers if key.startswith(one)), None)
        if wrapper is None:
            break
        key = key.removeprefix(wrapper)
    return key


def read_weights(
    files: list[tuple[Path, str]], trust: bool = False, choice: str | None = None, wanted: Collection[str] = ()
) -> Weights:
    """Read one file, or several that make up one network, each with the name of its key rule; see `apply_rule`."""
    whole = Weights()
    for number, (path, rule) in enumerate(files):
        part = apply_rule(key_rule(rule), read(path, trust), str(path), choice, wanted)
        twice = whole.tensors.keys() & part.tensors.keys()
        if twice:
            raise CheckpointError(
                f"{path}: {some_of(sorted(twice))} also came from the file before it; use one of them"
            )
        whole.tensors |= part.tensors
        for why, keys in part.dropped.items():
            whole.dropped.setdefault(why, []).extend(keys)
        whole.taken = f"{whole.taken} + {part.taken}" if number else part.taken
        whole.left += part.left
        whole.averaged = part.averaged
    return whole


def classes_of_head(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> int | None:
    """How many classes the weights have, where that alone tells them from the architecture; else None.

    Then all tensors of the same name that differ in shape differ in their first dimension, from one number to another.
    """
    shapes = [(tuple(wanted[name].shape), tuple(given[name].shape)) for name in wanted.keys() & given.keys()]
    different = [(one, other) for one, other in shapes if one != other]
    if any(not one or not other or one[1:] != other[1:] for one, other in different):
        return None
    numbers = {(one[0], other[0]) for one, other in different}
    return numbers.pop()[1] if len(numbers) == 1 else None


def load_strictly(network: nn.Module, weights: Weights, where: str) -> None:
    """Load every tensor.

    Step counters of BatchNorm (`num_batches_tracked`) may be absent, since nothing is computed from them. Raises
    CheckpointError for any other key that is missing, surplus, of another shape, complex, or not finite.
    """
    wanted = network.state_dict()
    required = {name for name in wanted if not name.endswith("num_batches_tracked")}
    given = weights.tensors
    both = sorted(given.keys() & wanted.keys())
    problems = {
        "missing": sorted(required - given.keys()),
        "surplus": sorted(given.keys() - wanted.keys()),
        "misshapen": [
            f"{name} {tuple(given[name].shape)} instead of {tuple(wanted[name].shape)}"
            for name in both
            if given[name].shape != wanted[name].shape
        ],
        # torch would drop their imaginary parts.
        "complex instead of real": [
            name for name in both if given[name].is_complex() and not wanted[name].is_complex()
        ],
        # Only in the shape that is wanted: a small file can describe a tensor of any size.
        "not finite": [
            name
            for name in both
            if given[name].shape == wanted[name].shape and not bool(torch.isfinite(given[name]).all())
        ],
    }
    found = [f"{len(names)} {problem} ({some_of(names)})" for problem, names in problems.items() if names]
    if found:
        others = f", or take others of the file with --weights: {some_of(weights.left)}" if weights.left else ""
        raise CheckpointError(
            f"{where} does not fit the architecture: {'; '.join(found)}; check architecture and key rule{others}"
        )
    network.load_state_dict(wanted | given, strict=True)
