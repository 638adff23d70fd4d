# An image that runs the README's two commands: docs/docker.md. Its authors had no Docker
# to build it with.
FROM python:3.11-slim-bookworm

# What OpenCV's wheel asks of the system, and a compiler for torch.compile.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        g++ libgl1 libglib2.0-0 libxcb1 \
    && rm -rf /var/lib/apt/lists/*

# Who runs it. Folders that are mounted are written with this number.
ARG UID=1000
RUN useradd --create-home --uid "$UID" mergevq \
    && install --directory --owner mergevq /home/mergevq/mergevq_mm
USER mergevq
WORKDIR /home/mergevq/mergevq_mm

# The environment, out of the files alone that decide it or that its last check imports:
# a change of other code installs nothing anew.
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1
COPY --chown=mergevq requirements requirements
COPY --chown=mergevq setup.py pyproject.toml ./
COPY --chown=mergevq tools/setup_env.sh tools/
COPY --chown=mergevq mergevq_mm/__init__.py mergevq_mm/version.py mergevq_mm/
COPY --chown=mergevq mergevq_mm/base/__init__.py mergevq_mm/base/tier.py mergevq_mm/base/
COPY --chown=mergevq mergevq_mm/utils/__init__.py mergevq_mm/utils/
COPY --chown=mergevq mergevq_mm/utils/compat mergevq_mm/utils/compat
RUN bash tools/setup_env.sh

COPY --chown=mergevq . .
ENV PATH=/home/mergevq/mergevq_mm/.venv/bin:$PATH
CMD ["bash", "tools/quickstart.sh"]
