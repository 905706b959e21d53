# The learner image: trainer, and `zeroq prepare`, which makes model and data ready. vLLM is here for its NCCL transport
# (weights.backend: nccl). For CUDA, or for CPUs with --build-arg ACCELERATOR=cpu --build-arg TORCH_INDEX=...
#
#   docker build -f deploy/docker/learner.Dockerfile -t zeroq/learner:0.1.0 .

ARG PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

# zeroq's own packages as pyproject.toml declares them: what is not declared is in no image.
FROM ${PYTHON_IMAGE} AS app
WORKDIR /src
RUN pip install --no-cache-dir --no-deps setuptools==78.1.1
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation --no-compile --target /app . \
    && python -m compileall -q --invalidation-mode unchecked-hash /app

# What is published as source alone, built into wheels; compiler and headers stay behind.
FROM ${PYTHON_IMAGE} AS wheels
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir --no-deps setuptools==78.1.1
COPY requirements/images/sources.txt /opt/requirements/
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /opt/wheels -r /opt/requirements/sources.txt

# Down to the mark, actor.Dockerfile and learner.Dockerfile are the same, so that the two images share these layers.
FROM ${PYTHON_IMAGE} AS learner
ARG ACCELERATOR=cuda
ARG TORCH_INDEX=
# The C compiler is Triton's: it compiles a launcher for each kernel when it first runs.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev libnuma1 tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 zeroq \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin zeroq \
    && install -d -o 10001 -g 10001 /var/lib/zeroq/run \
    && python -m venv --without-pip /opt/venv
COPY requirements/images/torch-${ACCELERATOR}.txt /opt/requirements/
RUN pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --only-binary :all: \
        ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} -r "/opt/requirements/torch-${ACCELERATOR}.txt"
COPY requirements/images/vllm.txt requirements/images/vllm-${ACCELERATOR}.txt /opt/requirements/
RUN pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --only-binary :all: \
        -r /opt/requirements/vllm.txt -r "/opt/requirements/vllm-${ACCELERATOR}.txt"
# HOME: what is compiled or cached while running goes to /tmp. USER: PyTorch asks for the name, which a pod with
# another user id has none of. NVIDIA_DRIVER_CAPABILITIES: which of the driver's libraries a pod that asks for a GPU gets;
# NVIDIA_VISIBLE_DEVICES stays unset, or every pod would see every GPU. flashinfer is not installed.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/zeroq \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    USER=zeroq \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    VLLM_USE_FLASHINFER_SAMPLER=0
# The mark.
COPY --from=wheels /opt/wheels /opt/wheels
COPY requirements/images/learner.txt /opt/requirements/
RUN pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --only-binary :all: --find-links /opt/wheels \
        -r /opt/requirements/learner.txt
COPY --from=app /app/zeroq-*.dist-info /opt/zeroq/zeroq.dist-info/
COPY --from=app /app/common /opt/zeroq/common
COPY --from=app /app/learner /opt/zeroq/learner
COPY --from=app /app/recipes /opt/zeroq/recipes
COPY --from=app /app/launcher /opt/zeroq/launcher
COPY --from=app /app/evaluator /opt/zeroq/evaluator
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="zeroq learner" \
      org.opencontainers.image.description="zeroq's trainer" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
WORKDIR /opt/zeroq
USER 10001:10001
# Weights socket, gloo's rendezvous store, the gang's seat; metrics and probes.
EXPOSE 7610 7611 7620 9400
STOPSIGNAL SIGTERM
# Kubernetes probes the metrics port.
HEALTHCHECK NONE
ENTRYPOINT ["tini", "--", "python", "-m"]
CMD ["learner", "--run-dir", "/var/lib/zeroq/run", "--config", "/etc/zeroq/config.yaml", "--keep-running"]
