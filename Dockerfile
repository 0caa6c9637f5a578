# docker build --tag task-orchestrator .
# docker run --publish 8080:8080 --volume tasks:/data --env API_SECRET_KEY=... task-orchestrator
#
# Inside a container the server listens on every address, and it refuses to do that without a key:
# API_SECRET_KEY must be set. The record is /data/tasks.db; keep /data on a volume of a local disk. With
# DATABASE_URL=postgresql://... it is there instead. More than one of them: deploy/compose.cluster.yaml, deploy/kubernetes.

FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /app
WORKDIR /src
# The locked packages first, for any record and for JSON Web Tokens: this layer is made anew only when the lock changes.
COPY requirements-postgres.txt requirements-encryption.txt requirements-jwt.txt ./
RUN /app/bin/pip install --require-hashes -r requirements-postgres.txt -r requirements-encryption.txt -r requirements-jwt.txt
COPY . .
# What only installs packages has no place in what runs.
RUN /app/bin/pip install --no-deps --no-build-isolation . \
    && /app/bin/pip uninstall --yes setuptools pip

FROM python:3.11-slim
RUN useradd --system --uid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin orchestrator \
    && install --directory --owner orchestrator --mode 0750 /data
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SERVER_HOST=0.0.0.0 \
    SERVER_PORT=8080 \
    DATABASE_URL=sqlite:////data/tasks.db
USER orchestrator
WORKDIR /data
VOLUME /data
EXPOSE 8080
# Not urllib: it would ask a proxy that the environment names. Another port is set with SERVER_PORT, so that this line knows it.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-c", "import http.client, os, ssl, sys; at = ('127.0.0.1', int(os.environ['SERVER_PORT'])); c = http.client.HTTPSConnection(*at, timeout=4, context=ssl._create_unverified_context()) if os.environ.get('APP_SERVER_TLS_CERT') else http.client.HTTPConnection(*at, timeout=4); c.request('GET', '/health/live'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["task-orchestrator"]
CMD ["serve"]
