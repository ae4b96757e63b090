"""Log lines and warnings of the project's packages in the log of a flow run."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.logging.handlers import APILogHandler
from prefect.runtime import flow_run

from data.text import PACKAGES, make_logs_printable


class FlowRunLogHandler(APILogHandler):
    """Send records to the log of one flow run, also from plain threads, which have no run context."""

    def __init__(self, run_id: str):
        super().__init__()
        self.run_id = run_id

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record with the id of the run."""
        record.flow_run_id = self.run_id
        super().emit(record)


@contextmanager
def forward_logs_to_run() -> Iterator[None]:
    """Send log records and warnings to the log of the current flow run.

    Records are those of the project's loggers, level INFO and above.

    Prefect's own setting for this, `extra_loggers`, does not change the level, so that INFO records are lost. In a run
    inside another run, the inner run receives the records.
    """
    make_logs_printable()
    loggers = [logging.getLogger(name) for name in (*PACKAGES, "py.warnings")]
    before = [(logger, logger.handlers, logger.level) for logger in loggers]
    handler = FlowRunLogHandler(str(flow_run.id))
    for logger in loggers:
        logger.handlers = [h for h in logger.handlers if not isinstance(h, FlowRunLogHandler)] + [handler]
        logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():  # it also restores the function that shows warnings
            logging.captureWarnings(True)
            yield
    finally:
        logging.captureWarnings(False)
        for logger, handlers, level in before:
            logger.handlers = handlers
            logger.setLevel(level)
