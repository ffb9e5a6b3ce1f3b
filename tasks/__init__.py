"""One module a stage of dvc.yaml: files in, `model`, files out. Run one with `python -m tasks.STAGE`."""

import os

# OpenMP reads this when torch is loaded. Threads that wait by spinning bring a shared machine to a standstill: with
# four times as many processes as cores an update took 13.6 s, and 0.7 to 1.4 s with short spins (docs/log.md).
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
