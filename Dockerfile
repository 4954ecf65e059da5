# One image for everything. docs/scale.md says how it is used in Kubernetes.
#   CPU:          docker build --tag pervl .
#   CUDA:         docker build --build-arg TORCH_INDEX=https://pypi.org/simple --tag pervl:cuda .
#   demo:         docker run --rm --init pervl
#   code server:  docker run --init pervl dagster api grpc --host 0.0.0.0 --port 4266 -m pervl_assets.definitions
#   web server:   docker run --init pervl dagster-webserver --host 0.0.0.0 --port 3000 --workspace workspace.yaml
#   daemon:       docker run --init pervl dagster-daemon run --workspace workspace.yaml
# Variables (`--env PERVL_DATA=…`), dagster.yaml and workspace.yaml are given to each of them; the image holds none.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
# The files of .ci/check_wheel: the image is made of the wheel that was tested.
COPY pyproject.toml README.md LICENSE ./
COPY annotations annotations
COPY docs docs
COPY pervl_assets pervl_assets
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM python:${PYTHON}-slim
# Index of torch and torchvision. PyPI's own wheels are for CUDA, and need 5 GB more.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Extras of pyproject.toml: `ray` in place of `k8s` for the nodes of a Ray cluster.
ARG EXTRAS=k8s,postgres,s3
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
COPY constraints.txt /tmp/constraints.txt
# Before the wheel: this layer stays the same when only the project changes. What torch needs comes with the wheel: its
# index does not have the versions of constraints.txt.
RUN pip install --no-cache-dir --no-deps --constraint /tmp/constraints.txt --index-url "${TORCH_INDEX}" \
    torch torchvision
COPY --from=wheel /wheel /tmp/wheel
# There is no compiler: a dependency with C code and without a wheel is an error here.
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt "$(echo /tmp/wheel/*.whl)[${EXTRAS}]"
# Dagster's chart mounts dagster.yaml into the folder below /opt; runs write their locks beside it. Values are in /data.
RUN groupadd --gid 10001 pervl && useradd --uid 10001 --gid 10001 --create-home pervl \
    && mkdir --parents /opt/dagster/dagster_home /data \
    && chown pervl: /opt/dagster/dagster_home /data
# A number, because Kubernetes cannot see whether a name is root (runAsNonRoot).
USER 10001:10001
WORKDIR /data
# No entry point: Dagster's chart and launcher give whole commands, e.g. `dagster api execute_step …`.
CMD ["pervl", "demo"]
