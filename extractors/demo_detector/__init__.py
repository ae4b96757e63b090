"""Drawn scenes become the weights of the demo detector (`python -m extractors.demo_detector.train`).

Nothing here is used when images are extracted.
"""

__all__: list[str] = []
