"""Rouge of `tests`."""


def slow_lcs(one, other):
    """The table of the text books."""
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def slow_rouge(candidate, references):
    """The score of COCO's caption evaluation as its text reads, one pair at a time."""
    asked, precision, recall = candidate.lower().split(" "), [], []
    for reference in references:
        words = reference.lower().split(" ")
        common = slow_lcs(words, asked)
        precision.append(common / len(asked))
        recall.append(common / len(words))
    p, r = max(precision), max(recall)
    return (1 + 1.2**2) * p * r / (r + 1.2**2 * p) if p and r else 0.0
