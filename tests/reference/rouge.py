"""Reference implementation of ROUGE-L: one pair of texts at a time."""


def slow_lcs(one, other):
    """Compute the length of the longest common subsequence with the table of dynamic programming."""
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def slow_rouge(candidate, references):
    """Compute ROUGE-L as COCO's caption evaluation defines it."""
    words_of_candidate, precision, recall = candidate.lower().split(" "), [], []
    for reference in references:
        words = reference.lower().split(" ")
        common = slow_lcs(words, words_of_candidate)
        precision.append(common / len(words_of_candidate))
        recall.append(common / len(words))
    p, r = max(precision), max(recall)
    return (1 + 1.2**2) * p * r / (r + 1.2**2 * p) if p and r else 0.0
