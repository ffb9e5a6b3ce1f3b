"""Tests of a cluster that start no server and no `dvc` process: DVC runs in the test's own process, on a folder."""
