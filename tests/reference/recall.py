"""The oracle of the metrics: loops over dictionaries, one query at a time, as the definition reads."""

import math


def slow_recall(scores: dict[str, dict[str, float]], owner: dict[str, str]) -> dict[str, float]:
    """Metrics from scores[caption][image]; ranks count what scores strictly higher than the best right answer."""
    images = list(next(iter(scores.values())))
    t2i = [sum(row[i] > row[owner[c]] for i in images) for c, row in scores.items()]
    i2t = []
    for image in images:
        own = [c for c in scores if owner[c] == image]
        if own:
            best = max(scores[c][image] for c in own)
            i2t.append(sum(scores[c][image] > best for c in scores))
    found = {}
    for way, ranks in (("t2i", t2i), ("i2t", i2t)):
        for k in (1, 5, 10):
            found[f"{way}_r{k}"] = 100 * sum(r < k for r in ranks) / len(ranks)
        middle = sorted(ranks)
        n = len(ranks)
        found[f"{way}_medr"] = math.floor((middle[(n - 1) // 2] + middle[n // 2]) / 2) + 1
        found[f"{way}_meanr"] = sum(ranks) / n + 1
    return {**found, "rsum": sum(v for k, v in found.items() if "_r" in k)}
