# The packages of environment.yml, for workers of a cluster that share a folder (docs/sweeps.md).
#   docker build -t robust-representations .                      CPU
#   docker build -t robust-representations --build-arg CUDA=12.9 .     GPU
FROM condaforge/miniforge3:latest
ARG CUDA=""
WORKDIR /opt/robust-representations
COPY environment.yml pyproject.toml README.md ./
COPY nbhelpers nbhelpers
COPY checkpoints checkpoints
COPY data data
COPY notebooks notebooks
# The builder has no GPU, so conda is told what the workers have.
RUN if [ -n "$CUDA" ]; then export CONDA_OVERRIDE_CUDA="$CUDA"; fi \
 && mamba env update --name base --file environment.yml \
 && mamba install --name base --yes distributed \
 && mamba clean --all --yes
# A pod may run as any user: what Jupyter and Matplotlib write goes where all may write.
ENV HOME=/tmp
CMD ["nbhelpers", "sweep", "--help"]
