# bandlens for NVIDIA hosts: docker build -t bandlens . && docker run --gpus all -v "$PWD:/data" bandlens doctor
FROM python:3.12-slim-bookworm

LABEL org.opencontainers.image.title="bandlens" \
      org.opencontainers.image.description="Which image frequencies a classifier lives on" \
      org.opencontainers.image.licenses="Apache-2.0 AND CC-BY-SA-4.0"

ENV PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1 \
    BANDLENS_HOME=/cache \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

COPY . /src
RUN pip install '/src[gpu,timm]' \
 && rm -rf /src \
 && useradd --create-home researcher \
 && install -d -o researcher /cache /data

USER researcher
WORKDIR /data
VOLUME ["/cache", "/data"]
ENTRYPOINT ["bandlens"]
CMD ["--help"]
