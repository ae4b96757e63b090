"""Several processes of one service: started together, started again after a crash, and ended together.

Imports nothing heavy: the processes are forks of this one, which itself loads neither models nor an index.
"""

import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from data.text import printable
from pipeline.service.limits import EXIT_SECONDS

log = logging.getLogger(__name__)
SIGNALS = (signal.SIGTERM, signal.SIGINT)
FAILED = 3  # exit status of a worker that raised an error, in contrast to one that crashed
START_SECONDS = 60.0  # in which such an error ends the service
RESTART_SECONDS = 2.0  # minimum time between two starts of one worker
END_SECONDS = EXIT_SECONDS + 2.0  # from the signal to the end of all workers, whatever happens
METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


class Supervisor:
    """Runs a function in several processes until SIGTERM or Ctrl-C.

    Args:
        work: Runs a worker until a signal; gets the folder for the metrics of all workers.
        num_workers: Number of processes.
    """

    def __init__(self, work: Callable[[Path], None], num_workers: int) -> None:
        self._work, self._num_workers = work, num_workers
        self._starts: dict[int, float] = {}  # process id: time of its start
        self._is_ending = self._has_failed = False

    def run(self) -> bool:
        """Run the workers. A worker that crashes is started again.

        Returns:
            Whether all went well; false if a worker failed to start within `START_SECONDS`. It has printed why.
        """
        folder = Path(tempfile.mkdtemp(prefix="tern-metrics-"))
        os.environ[METRICS_VARIABLE] = str(folder)
        begin = time.monotonic()
        try:
            for number in SIGNALS:
                signal.signal(number, self._end)
            for _ in range(self._num_workers):
                self._start(folder)
            while self._starts:
                self._replace(folder, begin)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return not self._has_failed

    def _start(self, folder: Path) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the process is known to `_end`
        if not self._is_ending:
            parent, process = os.getpid(), os.fork()
            if not process:
                self._run_worker(folder, parent)
            self._starts[process] = time.monotonic()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _run_worker(self, folder: Path, parent: int) -> NoReturn:
        status = FAILED
        try:
            os.setpgid(0, 0)  # Ctrl-C reaches the first process only, which ends the others
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
            self._work(folder)
            status = 0
        except Exception as error:  # a forked process ends here, with one line whatever is wrong
            log.error("A worker cannot start: %s", printable(str(error)))
        finally:
            os._exit(status)

    def _replace(self, folder: Path, begin: float) -> None:
        """Wait for the end of a worker, and start it again unless the service ends."""
        process, wait_status = os.wait()
        start, status = self._starts.pop(process), os.waitstatus_to_exitcode(wait_status)
        for path in folder.glob(f"gauge_live*_{process}.db"):  # the other files hold sums, which stay true
            path.unlink(missing_ok=True)
        if self._is_ending:
            return
        if status == FAILED and time.monotonic() - begin < START_SECONDS:
            self._has_failed = True
            self._end(signal.SIGTERM, None)
            return
        log.warning("A worker ended with status %s; it is started again", status)
        time.sleep(max(0.0, start + RESTART_SECONDS - time.monotonic()))
        self._start(folder)

    def _end(self, _: int, frame: FrameType | None) -> None:
        self._is_ending = True
        self._send(signal.SIGTERM)
        signal.signal(signal.SIGALRM, lambda *_: self._send(signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, END_SECONDS)

    def _send(self, number: signal.Signals) -> None:
        for process in self._starts:
            with suppress(ProcessLookupError):
                os.kill(process, number)


def _end_with_parent(parent: int) -> None:
    """End this process, as SIGTERM does, when the first process is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
