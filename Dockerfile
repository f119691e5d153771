# bandlens for NVIDIA hosts. docs/guide/scale.md says how to build and run it, and what of it has been executed.
#
# The CUDA libraries are those of the Python wheels, so the base image holds none. For the same bytes at each build, pin
# it by its digest: --build-arg PYTHON_IMAGE=…@sha256:… CUDA is the version that the host's driver must know.
ARG PYTHON_IMAGE=python:3.12-slim-bookworm
ARG CUDA=13.0

# What changes seldom and weighs gigabytes comes first: a change of bandlens reuses these layers.
FROM ${PYTHON_IMAGE} AS stack
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /usr/local/share/bandlens

# Wheels only, each with the sha256 that the lock names. The cache mount is no part of the image.
COPY docker/requirements.lock ./
RUN --mount=type=cache,target=/root/.cache/pip \
    { [ "$(uname -m)" = x86_64 ] || { echo "the locks are for x86_64, not $(uname -m)" >&2; exit 1; }; } \
 && pip install --require-hashes --only-binary :all: --requirement requirements.lock

# TensorRT's libraries are on NVIDIA's own index alone. The package on the public one is a stub, whose sha256 the lock
# names; to build it is to download NVIDIA's wheel (about 3.7 GB) from there and to compare it with the hash that the
# same index states. So that nothing else comes from outside the locks, the stub is built with the tools installed
# above, not with the newest ones. No lock covers the wheel: its sha256 is kept in tensorrt.sha256, and one that is
# given as --build-arg TENSORRT_LIBS_SHA256=… must be equal. What would build plans for Windows (win) is left out, and
# with --build-arg SM=90 what would build plans for GPUs of another compute capability than 9.0.
ARG TENSORRT_LIBS_SHA256=
ARG SM=
COPY docker/tensorrt.lock ./
RUN pip wheel --no-cache-dir --no-deps --require-hashes --no-build-isolation --wheel-dir /tmp/tensorrt \
      --requirement tensorrt.lock \
 && sha256sum /tmp/tensorrt/tensorrt_cu13_libs-*.whl > tensorrt.sha256 \
 && cat tensorrt.sha256 \
 && grep "^${TENSORRT_LIBS_SHA256}" tensorrt.sha256 \
 && pip install --no-cache-dir --no-index --no-deps /tmp/tensorrt/*.whl \
 && rm -r /tmp/tensorrt \
 && find /usr/local/lib -name 'libnvinfer_builder_resource_win*' -delete \
 && if [ -n "${SM}" ]; then \
      if [ -z "$(find /usr/local/lib -name "libnvinfer_builder_resource_sm${SM}.so*")" ]; then \
        echo "SM=${SM}: TensorRT has no libnvinfer_builder_resource_sm${SM}.so; take SM=90 for an H100" >&2; exit 1; \
      fi; \
      find /usr/local/lib -name 'libnvinfer_builder_resource_sm*' \
        ! -name "libnvinfer_builder_resource_sm${SM}.so*" -delete; \
    fi

FROM stack AS package
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-index --no-deps --no-build-isolation --wheel-dir /wheels .

FROM stack
# Any user may write to the volumes and to /tmp, so that `docker run --user` needs no preparation.
RUN groupadd --gid 1000 bandlens \
 && useradd --uid 1000 --gid 1000 --no-log-init --no-create-home --home-dir /tmp bandlens \
 && install --directory --mode=1777 /checkpoints /results \
 && install --directory /images
RUN --mount=type=bind,from=package,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --no-deps /wheels/*.whl

# HOME: a user of another uid has none. NVIDIA_REQUIRE_CUDA: a container toolkit that reads it refuses a host whose
# driver is too old, instead of letting CUDA fail later. The last three: ONNX Runtime, NNCF and the Hugging Face
# client send usage statistics unless told not to.
ARG CUDA
ENV BANDLENS_HOME=/checkpoints \
    CUPY_CACHE_DIR=/checkpoints/cupy \
    HOME=/tmp \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_REQUIRE_CUDA="cuda>=${CUDA}" \
    NVIDIA_VISIBLE_DEVICES=all \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    NNCF_CI=1 \
    HF_HUB_DISABLE_TELEMETRY=1

ARG REVISION=unknown
LABEL org.opencontainers.image.title="bandlens" \
      org.opencontainers.image.description="Which image frequencies a classifier lives on" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0 AND CC-BY-SA-4.0 AND CC0-1.0 AND MIT"

USER 1000:1000
WORKDIR /results
VOLUME ["/checkpoints", "/images", "/results"]
# `docker stop` interrupts as Ctrl-C does: what was committed stays, and the same command goes on later.
STOPSIGNAL SIGINT
# A container is one command with an exit code, not a service: there is no state between "runs" and "ended" to poll, and
# a probe every few seconds would take GPU memory from the run. `bandlens doctor` is the check, asked once, beforehand.
HEALTHCHECK NONE
ENTRYPOINT ["bandlens"]
CMD ["--help"]
