"""Reference implementation of NDCG@25: one query at a time, by the definition."""

import math


def slow_ndcg(scores, names, relevance):
    """Compute the NDCG of one query from scores, image ids and relevances of the gallery."""
    gain = [0.0 if math.isnan(x) else 2.0**x - 1 for x in relevance]
    # By score rounded to a millionth, then by image id, then by position.
    ranking = sorted(range(len(scores)), key=lambda k: (-round(scores[k] * 1e6), names[k], k))[:25]
    dcg, ideal = 0.0, 0.0
    for rank, (k, best) in enumerate(zip(ranking, sorted(gain, reverse=True), strict=False), 1):
        dcg += gain[k] / math.log2(rank + 1)
        ideal += best / math.log2(rank + 1)
    return dcg / ideal if ideal else 0.0


def slow_both(images, ids, captions, owners, relevance):
    """Compute the mean NDCG of both directions."""
    t2i = [slow_ndcg([float(v @ w) for w in images], ids, relevance[k]) for k, v in enumerate(captions)]
    i2t = [
        slow_ndcg([float(v @ w) for w in captions], owners, relevance[:, k])
        for k, v in enumerate(images)
        if ids[k] in owners
    ]
    return {"i2t_ndcg": sum(i2t) / len(i2t), "t2i_ndcg": sum(t2i) / len(t2i)}
