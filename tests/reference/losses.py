"""Reference implementations of the losses: one direction each, as in its paper, by loops over anchors and pairs.

Every function takes unit vectors (NumPy float64) and lists of labels: anchors, their labels, others, their labels.
"""

import math
from itertools import product

import numpy as np


def cosine(a, b):
    return float(a @ b)


def far(a, b):
    return float(np.linalg.norm(a - b))


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def positives(label, others, labels):
    return [row for row, other in zip(others, labels, strict=True) if other == label]


def negatives(label, others, labels):
    return [row for row, other in zip(others, labels, strict=True) if other != label]


def anchors_of(rows, labels, others, other_labels):
    """Yield each anchor with its positives and its negatives."""
    for row, label in zip(rows, labels, strict=True):
        yield row, positives(label, others, other_labels), negatives(label, others, other_labels)


def pairs_of(*data):
    """List each anchor with one of its positives, and the negatives of the anchor."""
    return [(a, p, n) for a, ps, n in anchors_of(*data) for p in ps]


def triplets_of(*data):
    return [(a, p, n) for a, p, ns in pairs_of(*data) for n in ns]


def relu(x):
    return max(0.0, x)


def lse(values):
    values = list(values)
    return math.log(sum(math.exp(v) for v in values)) if values else 0.0


def reduce(values, how):
    """Reduce the values of one direction: sum, mean over all, or mean over those above 0."""
    count = len(values) if how == "mean" else len([value for value in values if value > 0])
    return sum(values) if how == "sum" else sum(values) / max(1, count)


def slow_hinge(images, captions, image_ids, caption_ids, margin, which, how):
    """Compute both directions, each reduced over the positive pairs."""
    rows = [part.detach().numpy() for part in (images, captions)]
    y, z = image_ids.tolist(), caption_ids.tolist()
    total = 0.0
    for direction in ((rows[0], y, rows[1], z), (rows[1], z, rows[0], y)):
        values = []
        for a, p, ns in pairs_of(*direction):
            scores = [cosine(a, n) for n in ns]
            if which == "semihard":
                scores = [s for s in scores if s < cosine(a, p)]
            gaps = [relu(margin + s - cosine(a, p)) for s in scores]
            values.append(sum(gaps) if which == "all" else max(gaps, default=0.0))
        total += reduce(values, how)
    return total


def slow_infonce(images, captions, image_ids, caption_ids, temperature, how):
    """Compute both directions: for each anchor with positives, the mean negative log-probability of its positives."""
    rows = [part.detach().double().numpy() for part in (images, captions)]
    y, z = image_ids.tolist(), caption_ids.tolist()
    total = 0.0
    for direction in ((rows[0], y, rows[1], z), (rows[1], z, rows[0], y)):
        values = []
        for a, ps, ns in anchors_of(*direction):
            total_mass = lse(cosine(a, other) / temperature for other in ps + ns)
            if ps:
                values.append(mean(total_mass - cosine(a, p) / temperature for p in ps))
        total += reduce(values, how)
    return total


def angular(*data, alpha=40):
    tan = math.tan(math.radians(alpha)) ** 2
    return mean(
        math.log(1 + sum(math.exp(4 * tan * cosine(a + p, n) - 2 * (1 + tan) * cosine(a, p)) for n in ns))
        for a, p, ns in pairs_of(*data)
    )


def circle(*data, m=0.4, gamma=80):
    def of(a, ps, ns):
        pull = lse(-gamma * relu(1 + m - cosine(a, p)) * (cosine(a, p) - 1 + m) for p in ps)
        push = lse(gamma * relu(cosine(a, n) + m) * (cosine(a, n) - m) for n in ns)
        return np.logaddexp(0, pull + push)

    return mean(of(*one) for one in anchors_of(*data))


def contrastive(*data, between=far):
    pull = mean(relu(between(a, p)) for a, p, _ in pairs_of(*data))
    return pull + mean(relu(1 - between(a, n)) for a, _, ns in anchors_of(*data) for n in ns)


def generalized_lifted(*data):
    return mean(relu(lse(far(a, p) for p in ps) + lse(1 - far(a, n) for n in ns)) for a, ps, ns in anchors_of(*data))


def lifted(rows, labels, others, other_labels):
    total = []
    for (a, y), (p, z) in product(zip(rows, labels, strict=True), zip(others, other_labels, strict=True)):
        if y == z:
            gaps = [1 - far(a, n) for n in negatives(y, others, other_labels)]
            gaps += [1 - far(p, n) for n in negatives(y, rows, labels)]
            total.append(relu(lse(gaps) + far(a, p)) ** 2 / 2)
    return mean(total)


def intra_pair_variance(*data, e=0.01):
    right = [cosine(a, p) for a, p, _ in pairs_of(*data)]
    wrong = [cosine(a, n) for a, _, ns in anchors_of(*data) for n in ns]
    pull = mean(relu((1 - e) * mean(right) - s) ** 2 for s in right)
    return pull + mean(relu(s - (1 + e) * mean(wrong)) ** 2 for s in wrong)


def margin(*data, m=0.2, beta=1.2):
    return mean(relu(far(a, p) - beta + m) + relu(beta - far(a, n) + m) for a, p, n in triplets_of(*data))


def multi_similarity(*data, alpha=2, beta=50, base=0.5):
    return mean(
        math.log(1 + sum(math.exp(-alpha * (cosine(a, p) - base)) for p in ps)) / alpha
        + math.log(1 + sum(math.exp(beta * (cosine(a, n) - base)) for n in ns)) / beta
        for a, ps, ns in anchors_of(*data)
    )


def nca(*data):
    def of(a, ps, ns):
        right = sum(math.exp(-(far(a, p) ** 2)) for p in ps)
        return -math.log(right / (right + sum(math.exp(-(far(a, n) ** 2)) for n in ns)))

    return mean(of(*one) for one in anchors_of(*data))


def ntxent(*data, t=0.07):
    def of(a, p, ns):
        right = math.exp(cosine(a, p) / t)
        return -math.log(right / (right + sum(math.exp(cosine(a, n) / t) for n in ns)))

    return mean(of(*one) for one in pairs_of(*data))


def noise_ratio(a, b):
    return float(np.var(a - b, ddof=1) / np.var(a, ddof=1))


def supcon(*data, t=0.1):
    def of(a, ps, ns):
        denominator = sum(math.exp(cosine(a, x) / t) for x in ps + ns)
        return mean(-math.log(math.exp(cosine(a, p) / t) / denominator) for p in ps)

    return mean(of(*one) for one in anchors_of(*data))


def triplet(*data, m=0.05):
    return mean(relu(far(a, p) - far(a, n) + m) for a, p, n in triplets_of(*data))


def tuplet(*data, m=5.73, scale=64):
    def of(a, p, ns):
        right = math.cos(math.acos(cosine(a, p)) - math.radians(m))
        return math.log(1 + sum(math.exp(scale * (cosine(a, n) - right)) for n in ns))

    return mean(of(*one) for one in pairs_of(*data))


SLOW = {
    "AngularLoss": angular,
    "CircleLoss": circle,
    "ContrastiveLoss": contrastive,
    "GeneralizedLiftedStructureLoss": generalized_lifted,
    "IntraPairVarianceLoss": intra_pair_variance,
    "LiftedStructureLoss": lifted,
    "MarginLoss": margin,
    "MultiSimilarityLoss": multi_similarity,
    "NCALoss": nca,
    "NTXentLoss": ntxent,
    "SignalToNoiseRatioContrastiveLoss": lambda *data: contrastive(*data, between=noise_ratio),
    "SupConLoss": supcon,
    "TripletMarginLoss": triplet,
    "TupletMarginLoss": tuplet,
}


def slow_vicreg(images, captions, image_ids, caption_ids):
    """Compute 25 invariance + 25 variance + 1 covariance of vectors scaled to a mean square of 1, entry by entry."""
    e = images.shape[1]
    x, y = images * math.sqrt(e), captions * math.sqrt(e)
    same = [(i, j) for i, j in product(range(len(x)), range(len(y))) if image_ids[i] == caption_ids[j]]
    total = 25 * mean(sum((x[i][d] - y[j][d]) ** 2 for d in range(e)) / e for i, j in same)
    for rows in (x, y):
        center = [mean(row[d] for row in rows) for d in range(e)]

        def covariance(a, b, rows=rows, center=center):
            return sum((row[a] - center[a]) * (row[b] - center[b]) for row in rows) / (len(rows) - 1)

        total += 25 * mean(relu(1 - math.sqrt(covariance(d, d) + 1e-4)) for d in range(e)) / 2
        total += sum(covariance(a, b) ** 2 for a, b in product(range(e), range(e)) if a != b) / e
    return total
