# One image for the search service, the Prefect server and the worker: see docs/how-to/deploy.md.
#
#   docker build -t tern-retrieval:0.2.0 .
#   docker build -t tern-retrieval:0.2.0-gpu --build-arg VARIANT=gpu .
#
# Python as tested; pin the digest of the image that you have checked: PYTHON_IMAGE=python:...@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# cpu or gpu: the extra with FAISS, and the torch that is installed.
ARG VARIANT=cpu
ARG EXTRAS=demo,flows,photos,serve
# The wheels of torch on PyPI contain CUDA, which has several gigabytes; those of this index are for CPUs only.
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /build
RUN python -m venv /opt/tern
# The dependencies are a layer of their own: a change of the code does not install them again.
COPY pyproject.toml constraints.txt ./
COPY deploy/list_requirements.py deploy/
RUN python deploy/list_requirements.py "${VARIANT}" "${EXTRAS}" > requirements.txt \
    && if [ "${VARIANT}" = cpu ] && [ -n "${TORCH_CPU_INDEX}" ]; then \
         export PIP_EXTRA_INDEX_URL="${TORCH_CPU_INDEX}"; fi \
    && /opt/tern/bin/python -m pip install -c constraints.txt -r requirements.txt
COPY README.md LICENSE ./
COPY data data
COPY extractors extractors
COPY tern tern
COPY index index
COPY pipeline pipeline
COPY flows flows
RUN /opt/tern/bin/python -m pip install --no-deps .

FROM ${PYTHON_IMAGE}
ARG VERSION=0.2.0
LABEL org.opencontainers.image.title="TERN retrieval" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="MIT"
# /data holds plans, workspaces and Prefect's files, /cache what can be recomputed. Volumes that are made from the image
# belong to its user; everything else in the image may be read-only, except /tmp.
RUN groupadd --gid 10001 tern \
    && useradd --uid 10001 --gid tern --no-create-home --home-dir /data --shell /usr/sbin/nologin tern \
    && install -d -o tern -g tern -m 0750 /data /cache \
    && install -d -o tern -g tern -m 0750 /data/prefect
COPY --from=build /opt/tern /opt/tern
WORKDIR /srv/tern
COPY prefect.yaml prefect.toml automations.yaml ./
ENV PATH=/opt/tern/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/data \
    XDG_DATA_HOME=/data \
    XDG_CACHE_HOME=/cache \
    PREFECT_HOME=/data/prefect
USER 10001:10001
EXPOSE 8080
# Ready when the models are loaded and one query was answered. The path needs no token.
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/readyz', timeout=4)"]
# The service needs up to 37 s from SIGTERM to its end: `docker run --stop-timeout 45`.
ENTRYPOINT ["tern"]
CMD ["serve", "--host", "0.0.0.0", "--tokens", "/run/secrets/tokens", "--plan", "/photos"]
