"""Epochs of a training with made-up figures."""

from tern.evaluation.results import DirectionMetrics, RetrievalMetrics
from tern.training.history import Epoch


def make_epoch(number: int) -> Epoch:
    """An epoch whose figures grow with its number."""
    direction = DirectionMetrics(r1=number, r5=2 * number, r10=3 * number, medr=4, meanr=5)
    metrics = RetrievalMetrics(i2t=direction, t2i=direction, rsum=12 * number)
    return Epoch(epoch=number, loss=1 / number, lr=0.1, validation=metrics)
