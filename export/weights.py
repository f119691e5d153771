"""Weights: read a file safely, name its tensors as the architecture does, and load them strictly."""

from __future__ import annotations

import re
import tarfile
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from .files import html_title, reason
from .pickles import read_tensors_only
from .registry import KeyRule, key_rule

Dropped = dict[str, list[str]]
"""Why -> keys."""


@dataclass(slots=True)
class Weights:
    """Tensors by the architecture's names, and the keys that were left out."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    dropped: Dropped = field(default_factory=dict)


def read(path: Path, trust: bool = False) -> Any:
    """What the file holds: nested mappings with tensors on the CPU.

    safetensors, or a file of `torch.save` in the zip or the older format. `trust` lets a pickle run its code.
    Raises CheckpointError for a file that is missing, damaged, a web page, a TorchScript program, or not to be trusted.
    """
    if not path.is_file():
        raise CheckpointError(f"no weights at {path}; check the path")
    try:
        _check_kind(path)
        # torch warns of what it then reads, or refuses, all the same.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _read_safetensors(path) if _is_safetensors(path) else _read_pickle(path, trust)
    except CheckpointError:
        raise
    # A damaged file fails in as many ways as there are parsers, and each wants the same answer.
    except Exception as error:
        raise CheckpointError(f"cannot read weights from {path}: {reason(error)}; fetch the file again") from error


def _read_pickle(path: Path, trust: bool) -> Any:
    return torch.load(path, map_location="cpu", weights_only=False) if trust else read_tensors_only(path)


def _read_safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path)


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


def _check_kind(path: Path) -> None:
    """CheckpointError for a web page, a TorchScript program, and archives that grow or are unpacked to be read."""
    title = html_title(path)
    if title is not None:
        raise CheckpointError(f"{path} is a web page ('{title}'), not weights; download the file itself")
    if _is_tar(path):
        raise CheckpointError(f"{path} is a tar archive, which torch has not written since 2017; save it with torch")
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.filename.endswith("/constants.pkl") for member in members):
        raise CheckpointError(f"{path} is a TorchScript program, not weights; save the module's state_dict() instead")
    # torch.save compresses nothing: more bytes than the file has are packed, or the same ones many times.
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise CheckpointError(f"{path} holds more bytes than it has, which torch.save never does; save it with torch")


def apply_rule(rule: KeyRule, content: Any, where: str) -> Weights:
    """The tensors of `content` under the architecture's names; `where` names the file in errors."""
    held = _container(rule, content, where)
    weights = Weights()
    for key, value in held.items():
        why = next((why for pattern, why in rule.drop if re.search(pattern, str(key))), None)
        if why is None and not isinstance(value, Tensor):
            why = "not a tensor"
        if why is not None:
            weights.dropped.setdefault(why, []).append(str(key))
            continue
        name = _renamed(rule, str(key))
        if name in weights.tensors:
            raise CheckpointError(f"{where}: two keys become '{name}' by rule '{rule.name}'; choose another key rule")
        weights.tensors[name] = value.detach()
    if not weights.tensors:
        raise CheckpointError(
            f"{where}: rule '{rule.name}' finds no tensors among {_some(map(str, held))}; choose another key rule"
        )
    return weights


def _container(rule: KeyRule, content: Any, where: str) -> Mapping[Any, Any]:
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{where} holds one {type(content).__name__} and no named tensors; save the module's state_dict() instead"
        )
    found = (content[name] for name in rule.containers if isinstance(content.get(name), Mapping))
    return next(found, content)


def _renamed(rule: KeyRule, key: str) -> str:
    for pattern, replacement in rule.rename:
        key = re.sub(pattern, replacement, key)
    return key


def _some(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def read_weights(files: list[tuple[Path, str]], trust: bool = False) -> Weights:
    """Read one file, or several that make up one network, each with the name of its key rule."""
    whole = Weights()
    for path, rule in files:
        part = apply_rule(key_rule(rule), read(path, trust), str(path))
        twice = whole.tensors.keys() & part.tensors.keys()
        if twice:
            raise CheckpointError(f"{path}: {_some(sorted(twice))} also came from the file before it; use one of them")
        whole.tensors |= part.tensors
        for why, keys in part.dropped.items():
            whole.dropped.setdefault(why, []).extend(keys)
    return whole


def load_strictly(network: nn.Module, weights: Weights, where: str) -> int:
    """Load every tensor; the number loaded, step counters of BatchNorm (`num_batches_tracked`) not counted.

    Those counters may be absent, since nothing is computed from them. Raises CheckpointError for any other key that is
    missing, surplus, of another shape, or not finite.
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
        # Of the shape that is wanted: a small file can describe a tensor of any size.
        "not finite": [
            name
            for name in both
            if given[name].shape == wanted[name].shape and not bool(torch.isfinite(given[name]).all())
        ],
    }
    found = [f"{len(names)} {problem} ({_some(names)})" for problem, names in problems.items() if names]
    if found:
        raise CheckpointError(
            f"{where} does not fit the architecture: {'; '.join(found)}; check architecture and key rule"
        )
    network.load_state_dict(wanted | given, strict=True)
    return len(required)
