"""The Dockerfile is executed, on a base of Debian's packages and without the steps that fetch the GPU stack."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker_image import Builder, require_buildah
from dockerfile import LOCKS, ROOT, context

import bandlens

IMAGE = "localhost/bandlens"


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    require_buildah()
    folder = tmp_path_factory.mktemp("image")
    builder = Builder(folder)
    try:
        builder.prepare()
        builder.build(IMAGE, "--build-arg", "REVISION=0123abc")
        yield builder
    finally:
        builder("rm", "--all")
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def config(builder: Builder) -> dict[str, Any]:
    return builder.config(IMAGE)


@pytest.fixture
def container(builder: Builder) -> Iterator[str]:
    name = builder("from", IMAGE)
    yield name
    builder("rm", name)


def test_a_container_is_one_command_of_an_ordinary_user(config: dict[str, Any]) -> None:
    assert (config["Entrypoint"], config["Cmd"]) == (["bandlens"], ["--help"])
    assert (config["User"], config["WorkingDir"]) == ("1000:1000", "/results")
    assert set(config["Volumes"]) == {"/checkpoints", "/images", "/results"}
    assert (config["StopSignal"], config["Healthcheck"]) == ("SIGINT", {"Test": ["NONE"]})


def test_its_environment_asks_for_gpus_and_sends_no_statistics(config: dict[str, Any]) -> None:
    environment = dict(variable.split("=", 1) for variable in config["Env"])
    assert environment["BANDLENS_HOME"] == "/checkpoints"
    assert environment["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert environment["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert environment["NVIDIA_REQUIRE_CUDA"] == "cuda>=13.0"
    assert {environment[name] for name in ("ORT_DISABLE_TELEMETRY", "NNCF_CI", "HF_HUB_DISABLE_TELEMETRY")} == {"1"}


def test_its_labels_say_what_it_is(config: dict[str, Any]) -> None:
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
    assert (labels["title"], labels["version"], labels["revision"]) == ("bandlens", bandlens.__version__, "0123abc")
    assert labels["licenses"] == "Apache-2.0 AND CC-BY-SA-4.0 AND MIT"


def test_it_holds_the_locks_and_no_source(builder: Builder, container: str) -> None:
    root = Path(builder("mount", container))
    for lock in LOCKS:
        copy = root / "usr/local/share/bandlens" / lock.name
        assert copy.read_bytes() == lock.read_bytes()
        assert copy.stat().st_uid == 0
    assert not [name for name in ("src", "wheels", "tmp/tensorrt") if (root / name).exists()]


@pytest.mark.parametrize("user", [None, "4321:4321"])
def test_any_user_runs_it_and_writes_to_the_volumes_alone(builder: Builder, container: str, user: str | None) -> None:
    printed = builder.run(
        container,
        'id -u; pwd; echo "$HOME"; test -x "$(command -v bandlens)"; touch /results/a /checkpoints/a "$HOME/a"; '
        'python3 -c "import bandlens; print(bandlens.__version__)"',
        user,
    )
    assert printed.split() == [(user or "1000").split(":")[0], "/results", "/tmp", bandlens.__version__]
    for folder in ("/images", "/", "/usr/local/share/bandlens"):
        with pytest.raises(RuntimeError, match="touch: cannot touch"):
            builder.run(container, f"touch {folder}/a", user)


def test_the_builder_gets_what_the_dockerignore_is_read_to_send(builder: Builder) -> None:
    builder.build("localhost/package", "--target", "package")
    name = builder("from", "localhost/package")
    source = Path(builder("mount", name)) / "src"
    got = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    products = {name for name in got if name.startswith(("build/", "bandlens.egg-info/"))}
    assert got - products == {path.as_posix() for path in context(ROOT)}
