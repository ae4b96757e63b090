"""All metrics of a split together: each equals what is measured alone."""

import numpy as np
import pytest

from tern.config import EvaluationConfig
from tern.evaluation import evaluate as module
from tern.evaluation.evaluate import evaluate_vectors
from tern.evaluation.metrics import average_metrics, make_folds, retrieval_metrics
from tern.evaluation.ndcg import write_relevances
from tests.helpers.tern_world import scene
from tests.reference.ndcg import slow_both
from tests.reference.rouge import slow_rouge


@pytest.fixture
def split():
    images, ids, captions, owners = scene(3, images=24)
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(["a", "dog", "Man", "runs", "."], draw.integers(2, 9))) for _ in owners]
    return images, ids, captions, owners, texts


def slow_relevance(ids, owners, texts):
    own = {name: [t for t, o in zip(texts, owners, strict=True) if o == name] for name in ids}
    return np.array([[slow_rouge(text, own[name]) for name in ids] for text in texts], np.float32)


def test_everything_at_once_is_each_alone(split, tmp_path, monkeypatch):
    images, ids, captions, owners, texts = split
    rouge = slow_relevance(ids, owners, texts)
    spice = np.random.default_rng(1).random(rouge.shape).astype(np.float32)
    write_relevances(tmp_path / "coco-val-spice.npy", [spice])
    config = EvaluationConfig(folds=3, ndcg=True, spice_file=str(tmp_path / "coco-{split}-spice.npy"))
    found = evaluate_vectors(config, (images, captions), ids, owners, texts, "val", tmp_path)

    def alone(i, c):
        data = images[i], [ids[k] for k in i], captions[c], [owners[k] for k in c]
        result = retrieval_metrics(*data)
        for method, matrix in (("rougeL", rouge), ("spice", spice)):
            result |= {f"{name}_{method}": value for name, value in slow_both(*data, matrix[np.ix_(c, i)]).items()}
        return result

    expected = alone(range(24), range(len(owners)))
    expected |= {
        f"fold_{k}": v for k, v in average_metrics([alone(*part) for part in make_folds(ids, owners, 3)]).items()
    }
    assert found == pytest.approx(expected, abs=1e-6)

    monkeypatch.setattr(module, "rouge_l", lambda *_: pytest.fail("the relevances were there"))
    assert evaluate_vectors(config, (images, captions), ids, owners, texts, "val", tmp_path) == found


def test_by_default_it_is_recalls_and_ranks(split, tmp_path):
    images, ids, captions, owners, texts = split
    found = evaluate_vectors(EvaluationConfig(), (images, captions), ids, owners, texts, "val", tmp_path)
    assert found == retrieval_metrics(images, ids, captions, owners)
    assert list(tmp_path.iterdir()) == []
