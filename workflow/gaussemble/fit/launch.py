"""Start a stage as several processes of this machine that train together (fit.distributed); torchrun does the work.

What torchrun adds to a mistake, a traceback of its own, is left out: the process that failed has said what was wrong.
"""

import logging
import os
import signal

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run


def launch(processes: int, arguments: list[str]) -> int:
    """Run `gaussemble ARGUMENTS` in so many processes; returns the exit code of the first that failed, or 0.

    They share the threads that OMP_NUM_THREADS grants. SIGTERM and SIGINT go on to them, and they end as they do alone.
    """
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    os.environ["OMP_NUM_THREADS"] = str(max(1, int(threads) // processes)) if threads.isdigit() else "1"
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    # the address, for torchrun takes the machine's name, and waits for ever where that cannot be resolved
    here = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(processes)]
    try:
        run(parse_args([*here, "-m", "gaussemble", *arguments]))
    except ChildFailedError as failure:
        _, first = failure.get_first_failure()
        return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
    except SignalException as ended:
        return 128 + signal.Signals(ended.sigval).value
    return 0
