# One file for every image: service, indexer, training, and `all`, which also runs the demo.
#
#   docker build --target service --tag sightline-service .                         CPU, no CUDA libraries
#   docker build --target service --build-arg VARIANT=gpu --tag sightline-service-gpu .
#
# Every image has the same dependencies in the same layer, which changes only with pyproject.toml and constraints.txt;
# the code is a few hundred kB on top. Any base with Python 3.11 to 3.13 and its venv module will do: name one by its
# digest with --build-arg BASE_TAG=…@sha256:… to build the same image again.
ARG BASE=python
ARG BASE_TAG=3.12-slim-bookworm

FROM ${BASE}:${BASE_TAG} AS dependencies
ARG VARIANT=cpu
# Where torch without CUDA comes from: the address that pytorch.org gives for pip on CPUs. Empty: the ordinary index, whose
# torch brings CUDA's libraries along.
ARG TORCH_INDEX=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /opt/sightline
ENV PATH=/opt/sightline/bin:$PATH
WORKDIR /src
COPY pyproject.toml constraints.txt ./
RUN case "$VARIANT" in cpu|gpu) ;; *) echo "VARIANT is cpu or gpu, not '$VARIANT'." >&2; exit 1 ;; esac; \
    if [ "$VARIANT" = cpu ] && [ -n "$TORCH_INDEX" ]; then \
        PIP_INDEX_URL="$TORCH_INDEX" pip install --no-deps --constraint constraints.txt torch torchvision; \
    fi
RUN python3 -c "import sys, tomllib; \
project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
extras = project['optional-dependencies']; \
print(*project['dependencies'], *extras[sys.argv[1]], *extras['otel'], sep='\n')" "$VARIANT" > requirements.txt \
    && pip install --constraint constraints.txt --requirement requirements.txt

# The code of each image, installed apart from its dependencies. A package that is not there takes its commands along.
FROM dependencies AS code
COPY LICENSE README.md ./
COPY sightline sightline

FROM code AS service-code
COPY service service
RUN pip install --no-deps --target /opt/code .

FROM code AS indexer-code
COPY indexer indexer
RUN pip install --no-deps --target /opt/code .

FROM code AS training-code
COPY training training
RUN pip install --no-deps --target /opt/code .

FROM code AS all-code
COPY service service
COPY indexer indexer
COPY training training
RUN pip install --no-deps --target /opt/code .

FROM ${BASE}:${BASE_TAG} AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG VARIANT=cpu
LABEL org.opencontainers.image.title="Sightline" \
      org.opencontainers.image.description="Find pictures with words, words with pictures, and name what a picture shows." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.sightline.variant="${VARIANT}"
# Volumes start as copies of these folders, so they are made with their owner. Nothing else is ever written but /tmp.
RUN groupadd --gid 10001 sightline \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin sightline \
    && install -d -o 10001 -g 10001 /collections /models
COPY --from=dependencies /opt/sightline /opt/sightline
ENV PATH=/opt/code/bin:/opt/sightline/bin:$PATH \
    PYTHONPATH=/opt/code \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONFAULTHANDLER=1 \
    HOME=/tmp \
    HF_HOME=/models
WORKDIR /collections
STOPSIGNAL SIGTERM
USER 10001:10001
ENTRYPOINT ["sightline"]
CMD ["--help"]

FROM runtime AS indexer
COPY --from=indexer-code /opt/code /opt/code
HEALTHCHECK NONE

FROM runtime AS training
COPY --from=training-code /opt/code /opt/code
HEALTHCHECK NONE

FROM runtime AS all
COPY --from=all-code /opt/code /opt/code
HEALTHCHECK NONE

# The last one is what `docker build .` makes. Listening beyond the container needs a file of keys, or
# SIGHTLINE_ALLOW_UNAUTHENTICATED=true. With HF_HUB_OFFLINE=1 it takes weights from bundles and /models alone.
FROM runtime AS service
COPY --from=service-code /opt/code /opt/code
ENV SIGHTLINE_HOST=0.0.0.0
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=600s --retries=3 \
    CMD ["python3", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ.get('SIGHTLINE_PORT', 8000)}/readyz\", timeout=4)"]
CMD ["serve"]
