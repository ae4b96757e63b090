"""CPU time per caption of token features with MiniLM."""

import torch

from data.demo.captions import generate_captions
from data.demo.layout import compose_scene
from extractors.config import TextConfig
from extractors.text.extractor import TextExtractor
from tests.bench.common import cpu, show


def tokens() -> None:
    """Measure captions one at a time, in batches padded to the limit (as other ports do), and in batches by length."""
    texts = [sentence for i in range(40) for sentence in generate_captions(compose_scene(7, i))]
    rows = []
    for dtype in ("float32", "bfloat16"):
        extractor = TextExtractor(TextConfig(model="minilm", dtype=dtype))
        methods = {
            "one at a time": lambda e=extractor: [e([text]) for text in texts],
            "64, padded to the limit": lambda e=extractor: _padded(e, texts),
            "64 of similar length": lambda e=extractor: e(texts),
        }
        rows += [(f"{method}, {dtype}", cpu(run) / len(texts), "per caption") for method, run in methods.items()]
    show("token features", rows)


def _padded(extractor: TextExtractor, texts: list[str]) -> None:
    """Extract as other ports do: 64 captions in the order given, padded to 64 tokens."""
    low = extractor.config.dtype == "bfloat16"
    for start in range(0, len(texts), 64):
        batch_texts = texts[start : start + 64]
        batch = extractor._tokenizer(
            batch_texts, padding="max_length", truncation=True, max_length=64, return_tensors="pt"
        )
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=low):
            extractor._model(**batch).last_hidden_state.half().numpy()
