# The serving image: runtime, index and service, without torch.
#   docker build --build-arg EXTRA=cpu --tag vitascope:cpu .
#   docker build --build-arg EXTRA=gpu --tag vitascope:gpu .     (onnxruntime-gpu and faiss-gpu; some GB of CUDA libraries)
#   docker build --build-arg EXTRA=cpu,milvus,ray --tag vitascope:distributed .
#   docker build --build-arg EXTRA=cpu,speech,ocr --tag vitascope:cpu .     (recognition of speech and screen text)

FROM python:3.11-slim-bookworm AS build
# cpu or gpu, which exclude each other in one environment, and further extras after a comma. The extra language, for
# warnings of queries in languages that the model does not know, is always included.
ARG EXTRA=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/venv
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY vitascope ./vitascope
COPY index ./index
COPY service ./service
COPY training ./training
COPY model_export ./model_export
COPY bundles/hd-vila-tiny ./bundles/hd-vila-tiny
RUN /opt/venv/bin/pip install --constraint constraints.txt ".[${EXTRA},language]" \
    && /opt/venv/bin/python -m compileall -q /opt/venv/lib

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="Vitascope" \
      org.opencontainers.image.description="Search, check and question folders of video" \
      org.opencontainers.image.licenses="Apache-2.0"
# A fixed number, so that the owner of mounted folders can be set from outside. A new volume gets the owner that its
# folder has here; /stores is for those of docker-compose.yml's other containers, of which Milvus runs as 999:0.
RUN groupadd --gid 10001 vitascope \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin vitascope \
    && install -d -o 10001 -g 10001 /data /videos /backups \
    && install -d -m 700 -o 10001 -g 10001 /stores/etcd /stores/minio \
    && install -d -m 700 -o 999 -g 0 /stores/milvus
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OPENBLAS_NUM_THREADS=2 \
    VITASCOPE_DATA_DIR=/data \
    VITASCOPE_HEALTH_PORT=8001
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8001/readyz', timeout=2)"]
ENTRYPOINT ["vitascope"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
