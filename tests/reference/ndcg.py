"""Ndcg of `tests`."""

import math


def slow_ndcg(scores, names, relevance):
    """One query: scores, image ids and relevances of the gallery."""
    gain = [0.0 if math.isnan(x) else 2.0**x - 1 for x in relevance]
    # to the nearest millionth, then by image id, then in the order given
    ranking = sorted(range(len(scores)), key=lambda k: (-round(scores[k] * 1e6), names[k], k))[:25]
    dcg, ideal = 0.0, 0.0
    for place, (k, best) in enumerate(zip(ranking, sorted(gain, reverse=True), strict=False), 1):
        dcg += gain[k] / math.log2(place + 1)
        ideal += best / math.log2(place + 1)
    return dcg / ideal if ideal else 0.0


def slow_both(images, ids, captions, owners, relevance):
    t2i = [slow_ndcg([float(v @ w) for w in images], ids, relevance[k]) for k, v in enumerate(captions)]
    i2t = [
        slow_ndcg([float(v @ w) for w in captions], owners, relevance[:, k])
        for k, v in enumerate(images)
        if ids[k] in owners
    ]
    return {"i2t_ndcg": sum(i2t) / len(i2t), "t2i_ndcg": sum(t2i) / len(t2i)}
