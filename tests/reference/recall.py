"""Reference implementation of recall and ranks: loops over dictionaries, one query at a time, by the definition."""

import math


def slow_recall(scores: dict[str, dict[str, float]], image_id_by_caption_id: dict[str, str]) -> dict[str, float]:
    """Compute metrics of scores[caption][image]; a rank counts what scores higher than the best positive.

    Args:
        scores: Scores by caption id and image id.
        image_id_by_caption_id: Image id by caption id.
    """
    images = list(next(iter(scores.values())))
    t2i = [sum(row[i] > row[image_id_by_caption_id[c]] for i in images) for c, row in scores.items()]
    i2t = []
    for image in images:
        captions = [c for c in scores if image_id_by_caption_id[c] == image]
        if captions:
            best = max(scores[c][image] for c in captions)
            i2t.append(sum(scores[c][image] > best for c in scores))
    metrics = {}
    for direction, ranks in (("t2i", t2i), ("i2t", i2t)):
        for k in (1, 5, 10):
            metrics[f"{direction}_r{k}"] = 100 * sum(r < k for r in ranks) / len(ranks)
        ordered = sorted(ranks)
        n = len(ranks)
        metrics[f"{direction}_medr"] = math.floor((ordered[(n - 1) // 2] + ordered[n // 2]) / 2) + 1
        metrics[f"{direction}_meanr"] = sum(ranks) / n + 1
    return {**metrics, "rsum": sum(v for k, v in metrics.items() if "_r" in k)}
