"""What an image and a caption cost: the demo's detector and MiniLM."""

from data.demo import compose, paint
from extractors.faster_rcnn import TorchvisionConfig, TorchvisionExtractor
from extractors.text import TextConfig, TextExtractor
from tests.bench.common import cpu, show


def extraction() -> None:
    """One image, one caption: the demo's detector and MiniLM."""
    pictures = [paint(compose(7, i))[0] for i in range(4)]
    rows = []
    for dtype in ("float32", "bfloat16"):
        extractor = TorchvisionExtractor(TorchvisionConfig(model="demo", weights="demo", dtype=dtype))
        rows.append((f"demo detector, {dtype}", cpu(lambda e=extractor: [e([p]) for p in pictures]) / 4, "an image"))
    show("region features", rows)
    texts = ["two dogs are running along the street in front of a woman with an umbrella"] * 64
    extractor = TextExtractor(TextConfig(model="minilm"))
    rows = [("one at a time", cpu(lambda: [extractor([t]) for t in texts[:8]]) / 8, "a caption")]
    rows.append(("batches of 64", cpu(lambda: extractor(texts)) / 64, "a caption"))
    show("token features", rows)
