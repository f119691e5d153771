"""The Docker image, built with buildah but for the steps that need the network's gigabytes."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dockerfile import BLOCK, ROOT
from required import miss

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
        who = [] if user is None else ["--user", user]
        return self("run", "--isolation", "chroot", *who, container, "--", "sh", "-ec", script)
