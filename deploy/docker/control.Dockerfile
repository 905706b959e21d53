# The control image: broker and autoscaler. No torch, no compiler.
#
#   docker build -f deploy/docker/control.Dockerfile -t zeroq/control:0.1.0 .
#   docker run zeroq/control:0.1.0 broker --help          arguments begin with the room; see README.md beside this file

ARG PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

# zeroq's own packages as pyproject.toml declares them: what is not declared is in no image.
FROM ${PYTHON_IMAGE} AS app
WORKDIR /src
RUN pip install --no-cache-dir --no-deps setuptools==78.1.1
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation --no-compile --target /app . \
    && python -m compileall -q --invalidation-mode unchecked-hash /app

FROM ${PYTHON_IMAGE} AS environment
RUN python -m venv --without-pip /opt/venv
COPY requirements/images/control.txt /opt/requirements/
RUN pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --only-binary :all: -r /opt/requirements/control.txt

FROM ${PYTHON_IMAGE} AS control
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 zeroq \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin zeroq \
    && install -d -o 10001 -g 10001 /var/lib/zeroq/run
COPY --from=environment /opt/venv /opt/venv
COPY --from=app /app/zeroq-*.dist-info /opt/zeroq/zeroq.dist-info/
COPY --from=app /app/common /opt/zeroq/common
COPY --from=app /app/broker /opt/zeroq/broker
COPY --from=app /app/launcher /opt/zeroq/launcher
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/zeroq \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="zeroq control" \
      org.opencontainers.image.description="zeroq's broker and autoscaler" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
WORKDIR /opt/zeroq
USER 10001:10001
# Learner, actors, evaluators, monitors; metrics and probes.
EXPOSE 7601 7602 7603 7604 9400
STOPSIGNAL SIGTERM
# Kubernetes probes the metrics port.
HEALTHCHECK NONE
ENTRYPOINT ["tini", "--", "python", "-m"]
CMD ["broker", "--run-dir", "/var/lib/zeroq/run", "--config", "/etc/zeroq/config.yaml", "--keep-running"]
