"""The Dockerfile is executed, on a base of Debian's packages and without the steps that fetch the GPU stack."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dockerfile import BLOCK, LOCKS, ROOT, context
from required import miss

import bandlens

IMAGE = "localhost/bandlens"
PACKAGES = "base-files,base-passwd,coreutils,dash,findutils,grep,passwd,python3-pip,python3-setuptools,sed"
# These lines do what the packages' own scripts would, as far as it is needed; without those the base takes seconds.
CONFIGURE = (
    'for file in passwd group; do cp "$1/usr/share/base-passwd/$file.master" "$1/etc/$file"; done',
    'cat "$1"/usr/share/ca-certificates/mozilla/*.crt > "$1/etc/ssl/certs/ca-certificates.crt"',
    'rm -rf "$1"/usr/share/doc "$1"/usr/share/locale "$1"/usr/share/man',
)


def require_buildah() -> None:
    """The test is skipped where no image can be built, unless BANDLENS_REQUIRE names `docker`."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/lib/podman", "/usr/libexec/podman"])
    if os.geteuid() == 0 and all(shutil.which(name, path=path) for name in ("buildah", "netavark", "mmdebstrap")):
        return
    miss("docker", "no image can be built: be root, and apt-get install buildah netavark mmdebstrap")


@dataclass(frozen=True, slots=True)
class Builder:
    """buildah with a store of its own under `folder`."""

    folder: Path

    def __call__(self, *words: str | Path) -> str:
        """The output of the command; a RuntimeError with its messages where it fails."""
        store = [f"--root={self.folder}/store", f"--runroot={self.folder}/run", "--storage-driver=overlay"]
        environment = os.environ | {"CONTAINERS_CONF": str(self.folder / "containers.conf"), "TMPDIR": str(self.folder)}
        result = subprocess.run(["buildah", *store, *words], env=environment, capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"buildah {words[0]} ended with {result.returncode}: {result.stdout}{result.stderr}")
        return result.stdout.strip()

    def prepare(self) -> None:
        """Make the base, in place of python:3.12-slim-bookworm: Debian with its own Python, pip and setuptools.

        Containers get the limits of this process, which buildah would raise.
        """
        limits = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
        hard = {name: resource.getrlimit(number)[1] for name, number in limits.items()}
        ulimits = [f"{name}={limit}:{limit}" for name, limit in hard.items() if limit != resource.RLIM_INFINITY]
        (self.folder / "containers.conf").write_text(f"[containers]\ndefault_ulimits = {json.dumps(ulimits)}\n")
        hooks = [f"--extract-hook={script}" for script in CONFIGURE]
        name = self("from", "scratch")
        debian = ["mmdebstrap", "--quiet", "--variant=extract", f"--include={PACKAGES}", *hooks, "trixie"]
        subprocess.run([*debian, self("mount", name)], check=True)
        self("config", "--env", "PATH=/usr/local/bin:/usr/sbin:/usr/bin", "--env", "PIP_BREAK_SYSTEM_PACKAGES=1", name)
        self("commit", "--quiet", name, "localhost/base")

    def build(self, tag: str, *options: str) -> None:
        """The image of the Dockerfile as it stands, less the steps that read a lock from an index."""
        text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
        dockerfile = self.folder / "Dockerfile"
        dockerfile.write_text(BLOCK.sub(lambda step: "" if "--require-hashes" in step[0] else step[0], text))
        fixed = ["--isolation", "chroot", "--format", "docker", "--build-arg", "PYTHON_IMAGE=localhost/base"]
        self("build", "--quiet", *fixed, *options, "--tag", tag, "--file", dockerfile, ROOT)

    def config(self, tag: str) -> dict[str, Any]:
        """The values that `docker inspect` shows as Config."""
        config: dict[str, Any] = json.loads(self("inspect", "--type", "image", tag))["Docker"]["config"]
        return config

    def run(self, container: str, script: str, user: str | None = None) -> str:
        """The output of a shell in the container, as the image's user or another one."""
        user_options = [] if user is None else ["--user", user]
        return self("run", "--isolation", "chroot", *user_options, container, "--", "sh", "-ec", script)


@pytest.fixture(scope="module")
def builder() -> Iterator[Builder]:
    require_buildah()
    # Beside pytest's own folders: those that an aborted run leaves mounted here cannot be removed by a later one.
    folder = Path(tempfile.mkdtemp(prefix="bandlens-image-"))
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
    assert labels["licenses"] == "Apache-2.0 AND CC-BY-SA-4.0 AND CC0-1.0 AND MIT"


def test_it_holds_the_locks_and_no_source(builder: Builder, container: str) -> None:
    root = Path(builder("mount", container))
    for lock in LOCKS:
        copy = root / "usr/local/share/bandlens" / lock.name
        assert copy.read_bytes() == lock.read_bytes()
        assert copy.stat().st_uid == 0
    assert not [name for name in ("src", "wheels", "tmp/tensorrt") if (root / name).exists()]


@pytest.mark.parametrize("user", [None, "4321:4321"])
def test_any_user_runs_it_and_writes_to_the_volumes_alone(builder: Builder, container: str, user: str | None) -> None:
    output = builder.run(
        container,
        'id -u; pwd; echo "$HOME"; test -x "$(command -v bandlens)"; touch /results/a /checkpoints/a "$HOME/a"; '
        'python3 -c "import bandlens; print(bandlens.__version__)"',
        user,
    )
    assert output.split() == [(user or "1000").split(":")[0], "/results", "/tmp", bandlens.__version__]
    for folder in ("/images", "/", "/usr/local/share/bandlens"):
        with pytest.raises(RuntimeError, match="touch: cannot touch"):
            builder.run(container, f"touch {folder}/a", user)


def test_the_builder_gets_what_the_dockerignore_is_read_to_send(builder: Builder) -> None:
    builder.build("localhost/package", "--target", "package")
    name = builder("from", "localhost/package")
    source = Path(builder("mount", name)) / "src"
    files = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    products = {name for name in files if name.startswith(("build/", "bandlens.egg-info/"))}
    assert files - products == {path.as_posix() for path in context(ROOT)}
