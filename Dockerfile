# DuoTok in a container, for CPUs or for NVIDIA GPUs:
#
#   docker build -t duotok .
#   docker build -t duotok:cuda --build-arg BASE=nvidia/cuda:13.0.1-base-ubuntu24.04 --build-arg TORCH_INDEX= .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" duotok encode song.mp3 -o song.duotok
#   docker run --rm --gpus all -v "$PWD:/work" duotok:cuda encode song.mp3 -o song.duotok --device cuda
#
# Not verified: no machine that it was written on had a docker daemon, so neither image has been built.
ARG BASE=python:3.12-slim
FROM ${BASE}

# The images of CUDA bring no Python; nothing else is missing, as sound is decoded by libraries inside the wheels.
RUN command -v python3 && python3 -m venv --help > /dev/null || \
    { apt-get update && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*; }
RUN python3 -m venv /opt/duotok
ENV PATH=/opt/duotok/bin:$PATH

# Where torch comes from: wheels without CUDA (a tenth of the size), or, when empty, pip's usual index, whose wheels have it.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# More of pyproject.toml's optional dependencies, as train,lm.
ARG EXTRAS=eval

# Libraries first: they change less often than the code.
WORKDIR /src
COPY constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt torch ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}
COPY pyproject.toml README.md LICENSE NOTICE MANIFEST.in ./
COPY src ./src
RUN pip install --no-cache-dir -c constraints.txt ".[${EXTRAS}]" && rm -rf build

# Whoever it runs as may write here.
ENV MPLCONFIGDIR=/tmp/matplotlib HF_HOME=/tmp/huggingface
WORKDIR /work
ENTRYPOINT ["duotok"]
CMD ["--help"]
