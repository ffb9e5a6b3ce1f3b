"""`python -m flows.cluster.tied MODULE`: runs a module that ends with its parent.

In a cluster another machine resumes the runs of a dead worker, so they must not go on here.
"""

import runpy
import sys

from tasks.common.stage import die_with_parent

if __name__ == "__main__":
    die_with_parent()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
