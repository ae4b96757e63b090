"""Measured recall equals a reference, and the choice is the best of all points and the same at each run."""

from dataclasses import replace

import numpy as np
import pytest

from index.ivf.faiss_io import train_ivf
from index.tuning.autotune import candidate_configs, measure_candidates
from index.tuning.choice import OperatingPoint, TuningLimits, choose_point, pareto_front

LIMITS = TuningLimits(min_recall=0.9, max_memory_bytes=1e9, max_latency_s=10.0)


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Make clusters; image queries are among them, text queries are shifted and noisier."""
    rng = np.random.default_rng(2)
    centers = rng.standard_normal((80, 32))
    near = centers[rng.integers(0, 80, 2700)] + 1.2 * rng.standard_normal((2700, 32))
    text = near[2600:] + 1.6 * rng.standard_normal((100, 32)) + 0.8 * rng.standard_normal(32)
    return unit(near[:2500]), {"text": unit(text), "image": unit(near[2500:2600])}


@pytest.fixture(scope="module")
def points(data) -> list[OperatingPoint]:
    return measure_candidates(*data, LIMITS)


def test_recall_and_nprobe_equal_reference(points, data):
    vectors, queries = data
    exact = [point for point in points if point.factory == "IVF1,SQfp16"]
    assert all(point.recall == point.test_recall == 1 for point in exact), "float16 codes are exact"
    order = np.random.Generator(np.random.PCG64(0)).permutation(100)
    checked = [point for point in points if point.factory == "IVF64,SQ8"]
    assert {point.query_kind for point in checked} == {"text", "image"}
    for point in checked:
        index = train_ivf(point.factory, vectors, 0)
        index.add(vectors)

        def recall(half: np.ndarray, nprobe: int, index=index) -> float:
            index.nprobe = nprobe
            exact = np.argsort(-(half.astype(np.float64) @ vectors.T), axis=1)[:, :10]
            results = index.search(half, 10)[1]
            return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, results, strict=True)]))

        tuning_queries, test_queries = (queries[point.query_kind][order[start::2]] for start in (0, 1))
        steps = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
        before = steps[steps.index(point.nprobe) - 1]
        assert recall(tuning_queries, before) < LIMITS.min_recall <= recall(tuning_queries, point.nprobe)
        assert point.recall == pytest.approx(recall(tuning_queries, point.nprobe))
        assert point.test_recall == pytest.approx(recall(test_queries, point.nprobe))
    assert min(point.nprobe for point in checked) > 1, "too easy: the data do not test the choice"


def test_text_queries_need_more_than_image_queries(points):
    probed = {point.query_kind: point.nprobe for point in points if point.factory == "IVF64,SQ8"}
    assert probed["text"] > probed["image"]


@pytest.mark.slow
def test_choice_is_least_work_within_limits_and_reproducible(points, data):
    chosen = choose_point(points, LIMITS, "text")
    fit = [p for p in points if p.query_kind == "text" and p.recall >= 0.9 and p.memory_bytes <= 1e9]
    assert chosen.work_us == min(point.work_us for point in fit)
    repeated, untimed = measure_candidates(*data, LIMITS), {"latency_s": 0, "cpu_s_single": 0, "cpu_s_batch": 0}
    assert [replace(point, **untimed) for point in repeated] == [replace(point, **untimed) for point in points]
    tight = replace(LIMITS, max_memory_bytes=min(p.memory_bytes for p in fit))
    assert choose_point(points, tight, "text").memory_bytes == tight.max_memory_bytes


@pytest.mark.slow
def test_more_rows_give_one_longer_list_or_more_lists(points, data):
    """Exact search of 40 times the rows does 40 times the work; else there are 40 times as many lists."""
    many = {(p.query_kind, p.factory, p.rescore): p for p in measure_candidates(*data, LIMITS, rows=100_000)}
    for few in points:
        more = many[few.query_kind, few.factory, few.rescore]
        assert (more.recall, more.nprobe) == (few.recall, few.nprobe)
        if few.factory == "IVF1,SQfp16":
            assert more.work_us == pytest.approx(40 * few.work_us, rel=0.1)  # the one centroid is still compared once
        else:
            assert few.work_us < more.work_us < 40 * few.work_us
        assert more.memory_bytes == pytest.approx(40 * few.memory_bytes, rel=0.05 if few.nlist == 1 else 1e-12)


def test_pareto_front_keeps_points_that_nothing_beats(points):
    front = pareto_front(points)
    for point in points:
        better = [
            other
            for other in points
            if other.query_kind == point.query_kind
            and (
                other.recall >= point.recall
                and other.work_us <= point.work_us
                and other.memory_bytes <= point.memory_bytes
            )
            and (other.recall, other.work_us, other.memory_bytes) != (point.recall, point.work_us, point.memory_bytes)
        ]
        assert (point in front) == (not better)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            replace(LIMITS, min_recall=1.1),
            r"limit recall@10 of 1.1 for text queries\. The nearest is .*Relax the limit",
        ),
        (replace(LIMITS, max_memory_bytes=1000), r"limit 1e-06 GB for text"),
        (replace(LIMITS, max_latency_s=0), r"limit 0 ms per query"),
    ],
)
def test_limit_that_no_point_keeps_is_named(limits, message, points):
    with pytest.raises(ValueError, match=message):
        choose_point(points, limits, "text")


def test_too_few_vectors_are_rejected(data):
    with pytest.raises(ValueError, match=r"5 vectors and 100 text queries.* are too few"):
        measure_candidates(data[0][:5], data[1], LIMITS)


def test_candidate_configs_of_100_000_rows():
    assert [config[1] for config in candidate_configs(100_000, 512)] == [
        "IVF1,SQfp16",
        "IVF1,PQ256x4fs",
        *(f"IVF{n},{code}" for n in (256, 512) for code in ("RaBitQfs", "PQ128x4fs")),
        *(f"IVF{n},{code}" for n in (1024, 2048) for code in ("SQ8", "RaBitQfs", "PQ128x4fs")),
    ]
    assert [config[1] for config in candidate_configs(30, 6)] == ["IVF1,SQfp16"]
