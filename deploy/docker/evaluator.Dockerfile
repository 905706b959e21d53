# The evaluator image: graders, without torch. Three targets:
#
#   evaluator   programs in Python alone (sandbox tier 1): what a restricted pod allows. No compiler.
#   languages   besides, the compilers and interpreters of every language (tiers 2 and 3)
#   models      besides, torch and transformers for reward models
#
#   docker build -f deploy/docker/evaluator.Dockerfile -t zeroq/evaluator:0.1.0 .
#   docker build -f deploy/docker/evaluator.Dockerfile --target languages -t zeroq/evaluator-languages:0.1.0 .

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

# Graded programs may read the interpreter's own folders, not this environment: its packages know answers.
FROM ${PYTHON_IMAGE} AS environment
RUN python -m venv --without-pip /opt/venv
COPY --from=wheels /opt/wheels /opt/wheels
COPY requirements/images/evaluator.txt /opt/requirements/
RUN pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --only-binary :all: --find-links /opt/wheels \
        -r /opt/requirements/evaluator.txt

FROM ${PYTHON_IMAGE} AS graders
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libseccomp2 tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 zeroq \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin zeroq \
    && install -d -o 10001 -g 10001 /var/lib/zeroq/run
COPY --from=environment /opt/venv /opt/venv
COPY --from=app /app/zeroq-*.dist-info /opt/zeroq/zeroq.dist-info/
COPY --from=app /app/common /opt/zeroq/common
COPY --from=app /app/evaluator /opt/zeroq/evaluator
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/zeroq \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="zeroq evaluator" \
      org.opencontainers.image.description="zeroq's graders and their sandbox" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
WORKDIR /opt/zeroq
USER 10001:10001
# Metrics and probes.
EXPOSE 9400
STOPSIGNAL SIGTERM
# Kubernetes probes the metrics port.
HEALTHCHECK NONE
ENTRYPOINT ["tini", "--", "python", "-m"]
CMD ["evaluator", "--run-dir", "/var/lib/zeroq/run", "--config", "/etc/zeroq/config.yaml", "--keep-running"]

FROM graders AS languages
USER 0
COPY requirements/languages.sh /opt/requirements/
# npm brings TypeScript and is not needed afterwards.
RUN sh /opt/requirements/languages.sh \
    && apt-get purge -y --auto-remove npm \
    && rm -rf /var/lib/apt/lists/* /root/.npm
USER 10001:10001

FROM graders AS models
ARG ACCELERATOR=cpu
ARG TORCH_INDEX=
USER 0
COPY requirements/images/torch-${ACCELERATOR}.txt requirements/images/models.txt /opt/requirements/
RUN pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --only-binary :all: \
        ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} -r "/opt/requirements/torch-${ACCELERATOR}.txt" \
    && pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --only-binary :all: \
        -r /opt/requirements/models.txt
# Without effect unless the pod asks for a GPU.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001

FROM graders AS evaluator
