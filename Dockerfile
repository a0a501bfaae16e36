# For a CPU, or for a GPU with CUDA 12:
#
#     docker build --tag jaxdistill .
#     docker build --tag jaxdistill:cuda12 --build-arg EXTRA=cuda12 .
#     docker run --rm --gpus all --user "$(id -u):$(id -g)" --volume "$PWD:/work" jaxdistill:cuda12 \
#         train --config recommended data.root=PATH/TO/COCO
#
# CUDA's libraries come with JAX's packages; the host needs NVIDIA's driver and container toolkit.
FROM python:3.11-slim

ARG EXTRA=cpu

WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
# jaxdistill/configs is a link to ../configs.
COPY configs configs
COPY jaxdistill jaxdistill
RUN pip install --no-cache-dir ".[${EXTRA},litert,video]"

# A user without a home in the container writes caches here.
ENV HOME=/tmp \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /work
ENTRYPOINT ["jaxdistill"]
