# The server on an NVIDIA GPU, with TensorRT and ONNX Runtime for CUDA. From the root of the repository:
#   docker build --file docker/service-gpu.Dockerfile --tag knet-serve-gpu:0.1.0 .
# A base that never changes is named by its digest: --build-arg BASE=docker.io/library/python@sha256:...
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# pip lies beside the environment, which so holds nothing that installs software.
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/knet
WORKDIR /source
COPY pyproject.toml constraints.txt docker/requirements.py docker/gpu.txt ./
# TensorRT's own package is 17 kB of Python that NVIDIA gives as source only.
RUN python3 requirements.py serve tracing > requirements.txt && \
    sed -i '/^onnxruntime$/d' requirements.txt && \
    /opt/pip/bin/pip --python /opt/knet/bin/python install --only-binary :all: \
        --no-binary tensorrt-cu13 --constraint constraints.txt --requirement requirements.txt --requirement gpu.txt && \
    ln -s /opt/knet/lib/python3*/site-packages /opt/knet/packages
COPY . .
RUN /opt/pip/bin/pip --python /opt/knet/bin/python install --no-deps --target /opt/app . && \
    cp -r repository /opt/app/

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="K-Net Serve, GPU" \
    org.opencontainers.image.description="K-Net image segmentation over HTTP, on an NVIDIA GPU" \
    org.opencontainers.image.licenses="Apache-2.0 AND CC-BY-SA-4.0 AND LicenseRef-NVIDIA" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/knet /opt/knet
COPY --from=build /opt/app /opt/app
# A container has to listen on more than its own loopback. There the server wants keys, unless it is told otherwise.
# ONNX Runtime looks for CUDA's libraries on the path; NVIDIA_... tell the container toolkit what of the driver to give.
ENV PATH=/opt/app/bin:/opt/knet/bin:${PATH} \
    PYTHONPATH=/opt/app \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    LD_LIBRARY_PATH=/opt/knet/packages/nvidia/cu13/lib:/opt/knet/packages/nvidia/cudnn/lib:/opt/knet/packages/tensorrt_libs \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    KNET_HOST=0.0.0.0
WORKDIR /tmp
USER 65532:65532
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ.get('KNET_PORT', '8000') + '/readyz', timeout=4)"]
ENTRYPOINT ["knet"]
CMD ["serve"]
