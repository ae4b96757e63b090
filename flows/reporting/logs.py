"""The project's log lines and warnings in the run's log, at their own level."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.logging.handlers import APILogHandler
from prefect.runtime import flow_run

PACKAGES = ("data", "extractors", "tern", "index", "pipeline", "flows")


class FlowRunLogHandler(APILogHandler):
    """Sends records to one run's log, also those of plain threads, which know of no run."""

    def __init__(self, run_id: str):
        super().__init__()
        self.run_id = run_id

    def emit(self, record: logging.LogRecord) -> None:
        """Send the record, as the run's."""
        record.flow_run_id = self.run_id
        super().emit(record)


@contextmanager
def forward_logs_to_run() -> Iterator[None]:
    """Send records of the project's loggers, INFO and above, and Python's warnings, to the run's log while it lasts.

    Prefect's own setting for this (`extra_loggers`) adds the handler and leaves the level, so that INFO is lost.
    Inside a run within a run, the inner one gets the lines.
    """
    loggers = [logging.getLogger(name) for name in (*PACKAGES, "py.warnings")]
    before = [(logger, logger.handlers, logger.level) for logger in loggers]
    handler = FlowRunLogHandler(str(flow_run.id))
    for logger in loggers:
        logger.handlers = [h for h in logger.handlers if not isinstance(h, FlowRunLogHandler)] + [handler]
        logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():  # which also gives back what showed warnings before
            logging.captureWarnings(True)
            yield
    finally:
        logging.captureWarnings(False)
        for logger, handlers, level in before:
            logger.handlers = handlers
            logger.setLevel(level)
