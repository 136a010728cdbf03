# maskwright for CPUs: without a command, the labelling page of the folder that is mounted at /data.
#
#   docker build -t maskwright .
#   docker run --rm --user "$(id -u):$(id -g)" -p 127.0.0.1:8765:8765 -v "$PWD/mydata:/data" maskwright
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" maskwright predict runs/mine new_images --out predictions
#
# The default PyTorch brings all of CUDA, gigabytes of it. Its builds for CPUs are a tenth of that size: name their package index with
# --build-arg TORCH_INDEX=URL; "Get Started" on PyTorch's pages tells the address.
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
ARG TORCH_INDEX=""
# The newest of what pyproject.toml allows, as pip installs it elsewhere.
# hadolint ignore=DL3013
RUN if [ -n "$TORCH_INDEX" ]; then pip install --no-cache-dir --index-url "$TORCH_INDEX" torch; fi
COPY --from=build /wheels /wheels
# hadolint ignore=DL3013
RUN set -- /wheels/*.whl && pip install --no-cache-dir "$1[onnx]" && rm -r /wheels
COPY docker/entrypoint.sh /usr/local/bin/maskwright-entrypoint
# Whoever the container runs as, by --user too: what libraries keep for a user goes where anybody may write.
ENV HOME=/tmp PYTHONUNBUFFERED=1
RUN useradd --uid 1000 --no-create-home maskwright && install -d -o maskwright /data
USER 1000
WORKDIR /data
VOLUME /data
EXPOSE 8765
ENTRYPOINT ["maskwright-entrypoint"]
