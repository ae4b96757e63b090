"""All metrics of a split together: each equals the same metric computed alone."""

import numpy as np
import pytest

from tern.config import EvaluationConfig
from tern.evaluation import evaluate as module
from tern.evaluation.evaluate import SplitVectors, evaluate_vectors
from tern.evaluation.metrics import average_metrics, make_folds, retrieval_metrics
from tern.evaluation.ndcg import write_relevances
from tern.evaluation.results import Evaluation, RetrievalMetrics, read_evaluation, write_evaluation
from tests.helpers.tern_world import scene
from tests.reference.ndcg import slow_both
from tests.reference.rouge import slow_rouge


@pytest.fixture
def split():
    images, ids, captions, owners = scene(3, images=24)
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(["a", "dog", "Man", "runs", "."], draw.integers(2, 9))) for _ in owners]
    return SplitVectors(images, captions, ids, owners, texts)


def slow_relevance(ids, owners, texts):
    texts_by_image_id = {name: [t for t, o in zip(texts, owners, strict=True) if o == name] for name in ids}
    return np.array([[slow_rouge(text, texts_by_image_id[name]) for name in ids] for text in texts], np.float32)


def test_all_metrics_together_equal_each_alone(split, tmp_path, monkeypatch):
    images, captions, ids, owners, texts, _ = vars(split).values()
    rouge = slow_relevance(ids, owners, texts)
    spice = np.random.default_rng(1).random(rouge.shape).astype(np.float32)
    write_relevances(tmp_path / "coco-val-spice.npy", [spice])
    config = EvaluationConfig(folds=3, ndcg=True, spice_file=str(tmp_path / "coco-{split}-spice.npy"))
    evaluation = evaluate_vectors(config, split, "val", tmp_path)

    def compute_alone(i, c):
        data = images[i], [ids[k] for k in i], captions[c], [owners[k] for k in c]
        result = retrieval_metrics(*data).flat()
        for method, matrix in (("rougeL", rouge), ("spice", spice)):
            result |= {f"{name}_{method}": value for name, value in slow_both(*data, matrix[np.ix_(c, i)]).items()}
        return result

    expected = {"images": 24, "captions": len(owners)} | compute_alone(range(24), range(len(owners)))
    folds = [RetrievalMetrics.from_flat(compute_alone(*part)) for part in make_folds(ids, owners, 3)]
    expected |= {f"fold_{name}": value for name, value in average_metrics(folds).flat().items()}
    assert evaluation.flat() == pytest.approx(expected, abs=1e-6)
    path = write_evaluation(tmp_path / "metrics.json", Evaluation(splits={"val": evaluation}))
    assert read_evaluation(path).splits == {"val": evaluation}

    monkeypatch.setattr(module, "rouge_l", lambda *_: pytest.fail("the relevances exist"))
    assert evaluate_vectors(config, split, "val", tmp_path) == evaluation


def test_default_evaluation_is_recalls_and_ranks(split, tmp_path):
    evaluation = evaluate_vectors(EvaluationConfig(), split, "val", tmp_path)
    expected = retrieval_metrics(split.images, split.image_ids, split.captions, split.caption_image_ids)
    assert (evaluation.metrics, evaluation.folds) == (expected, None)
    assert list(tmp_path.iterdir()) == []
