# A machine of a cluster as a container, for Kubernetes, Docker or a pool like Slurm's (docs/cluster.md). The image holds
# the environment only: a container clones the code, joins the cluster and works, so that one image runs any commit.
# A container needs ARC_GIT, ARC_SERVER, ARC_DATA, the secret in PREFECT_API_AUTH_STRING, and those of git and DVC;
# ARC_MLFLOW and ARC_SHARE_SAVES may be empty.
FROM python:3.11-slim-bookworm
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git openssh-client \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 arc
WORKDIR /opt/arc-diffusion
COPY pyproject.toml constraints.txt README.md LICENSE ./
# No package lies here yet, so that this installs what pyproject.toml asks for, and the clone's own code is the only one.
RUN pip install --no-cache-dir --constraint constraints.txt ".[s3,ssh]"
# By number: Kubernetes' runAsNonRoot cannot know what a name stands for.
USER 1000
WORKDIR /home/arc
ENV ARC_MLFLOW="" ARC_SHARE_SAVES="5"
# `exec`: the worker gets the SIGTERM that ends the container, upon which trainings save and share what they saved.
CMD ["sh", "-c", "git clone --quiet \"$ARC_GIT\" clone && cd clone && python -m flows.arc join \"$ARC_SERVER\" --mlflow \"$ARC_MLFLOW\" --data \"$ARC_DATA\" --share-saves \"$ARC_SHARE_SAVES\" && exec python -m flows.arc worker"]
