# The node as an image: the hashed lock, our two packages, an ordinary user, a health check. Nothing is compiled.
# It refuses to start without MESH_TOKEN (or MESH_TOKEN_FILE), unless MESH_ALLOW_ANONYMOUS=1 says that the network is
# private: inside a container it has to listen on every address.
# By digest, so that a tag that moves changes nothing; the tag says what it was.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python -m venv /opt/mesh-agent
# The lock alone first: this layer changes only when a dependency does. It is complete, so pip resolves nothing.
COPY requirements.txt ./
RUN /opt/mesh-agent/bin/pip install --no-deps --require-hashes --only-binary :all: --requirement requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY mcp_mesh_agent.py ./
COPY agent ./agent
COPY discovery ./discovery
# The build tools have done their work after this; what is not there cannot be attacked.
RUN /opt/mesh-agent/bin/pip install --no-deps --no-build-isolation . \
    && /opt/mesh-agent/bin/pip check \
    && /opt/mesh-agent/bin/pip uninstall --yes setuptools pip

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="MCP Mesh Agent" \
      org.opencontainers.image.description="MCP nodes that find each other through Consul and answer for each other." \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 mesh \
    && useradd --uid 10001 --gid mesh --no-create-home --home-dir /var/lib/mesh-agent --shell /usr/sbin/nologin mesh \
    && install --directory --owner mesh --group mesh --mode 0700 /var/lib/mesh-agent
COPY --from=build /opt/mesh-agent /opt/mesh-agent
ENV PATH=/opt/mesh-agent/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOST=0.0.0.0 \
    PORT=8000 \
    MESH_STATE_DIR=/var/lib/mesh-agent
USER 10001:10001
WORKDIR /var/lib/mesh-agent
VOLUME /var/lib/mesh-agent
EXPOSE 8000
STOPSIGNAL SIGTERM
# /readyz needs no token. Plain Python: the command line would load more than this needs, every ten seconds.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-c", \
    "import os, urllib.request as u; u.urlopen('http://127.0.0.1:%s/readyz' % os.environ['PORT'], timeout=4)"]
ENTRYPOINT ["mesh-agent"]
CMD ["run"]
