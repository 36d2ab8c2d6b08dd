# The image of the agent and of the MPS host: docs/image.md.
#
# The base is a glibc one with Python 3.11 or newer, venv and CA certificates: NVIDIA's driver library is made for glibc.
ARG BASE=docker.io/library/python:3.12-slim-bookworm

# Empty: packages come from the index. `--build-context wheelhouse=DIR --build-arg PIP_NO_INDEX=1` takes them from a folder instead.
FROM scratch AS wheelhouse

# --- the environment: every package from its wheel, byte-compiled, and the list of them -------------------------------
FROM ${BASE} AS build
ARG PIP_NO_INDEX=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ONLY_BINARY=:all: PIP_ROOT_USER_ACTION=ignore \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /build

COPY requirements.lock requirements-image.lock ./
RUN --mount=type=bind,from=wheelhouse,target=/wheelhouse \
    python3 -m venv tools \
    && python3 -m venv --without-pip /opt/nodeagent \
    && tools/bin/pip install --quiet --find-links /wheelhouse --require-hashes --requirement requirements-image.lock \
    && tools/bin/pip --python /opt/nodeagent/bin/python install --quiet --no-compile --find-links /wheelhouse \
        --require-hashes --requirement requirements.lock

COPY LICENSE README.md pyproject.toml ./
COPY schemas schemas
COPY nodeagent nodeagent
# `check` fails when the lock lacks something that the agent needs. The bytecode is not checked against the time of its source, which
# a copy of the image may change.
RUN tools/bin/pip wheel --quiet --no-index --no-deps --no-build-isolation --wheel-dir wheels . \
    && tools/bin/pip --python /opt/nodeagent/bin/python install --quiet --no-compile --no-index --no-deps --find-links wheels \
        nodeagent \
    && tools/bin/pip --python /opt/nodeagent/bin/python check \
    && python3 -m compileall -q -f -j 0 --invalidation-mode unchecked-hash /opt/nodeagent/lib \
    && tools/bin/cyclonedx-py environment --output-reproducible --validate --pyproject pyproject.toml \
        --output-file sbom.cdx.json /opt/nodeagent/bin/python

# --- the base without what installs packages or gives rights, its standard library byte-compiled ----------------------
FROM ${BASE} AS system
RUN for root in /usr /usr/local; do \
        rm -rf "$root"/bin/pip* "$root"/bin/2to3* "$root"/bin/idle* "$root"/share/python-wheels \
            "$root"/lib/python3*/site-packages/* "$root"/lib/python3*/dist-packages/* \
            "$root"/lib/python3*/ensurepip "$root"/lib/python3*/idlelib "$root"/lib/python3*/lib2to3 \
            "$root"/lib/python3*/tkinter "$root"/lib/python3*/turtledemo; \
    done \
    && find / -xdev -type f -perm /6000 -exec chmod ug-s {} + \
    && python3 -m compileall -q -f -j 0 --invalidation-mode unchecked-hash \
        "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"

# --- the image: copied, so that no layer below has what was removed ---------------------------------------------------
FROM scratch
COPY --from=system / /
COPY --from=build /opt/nodeagent /opt/nodeagent
COPY --from=build /build/sbom.cdx.json /usr/share/nodeagent/sbom.cdx.json

ENV PATH=/opt/nodeagent/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1

ARG BASE
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="nodeagent" \
    org.opencontainers.image.description="A Kubernetes node agent that makes a GPU node be what a file in Git says it should be" \
    org.opencontainers.image.source="https://github.com/nodeagent/nodeagent" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.base.name="${BASE}"

# Root, since the kubelet's directories and sockets are root's. It needs no capability: docs/image.md.
USER 0:0
WORKDIR /
EXPOSE 9400
ENTRYPOINT ["nodeagent"]
CMD ["--help"]
