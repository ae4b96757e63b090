"""Queries that wait are answered in one pass, and no request waits or fails because of another one."""

import asyncio
import gc
import threading
import weakref
from contextlib import contextmanager

import pytest

pytest.importorskip("fastapi")

from fastapi import HTTPException

from pipeline.search.hits import Answer
from pipeline.search.query import SearchRequest, make_text_query
from pipeline.service.api import dispatcher as module
from pipeline.service.api.dispatcher import Dispatcher
from pipeline.service.limits import BusyError
from pipeline.service.metrics import Metrics


class Gate:
    """A searcher that answers after `release`, and fails for the text "bad"; it is also what lends itself."""

    def __init__(self):
        self.started, self.release, self.passes = threading.Event(), threading.Event(), []

    @contextmanager
    def borrow(self, version):
        if version == "none":
            raise HTTPException(404, "no such version")
        yield self

    def answer(self, requests, on_stage=None):
        self.passes.append([request.query.texts[0] for request in requests])
        self.started.set()
        assert self.release.wait(20)
        if any(request.query.texts[0] == "crash" for request in requests):
            raise RuntimeError("a crash")
        return [
            ValueError("bad") if request.query.texts[0] == "bad" else Answer((), request.query.texts[0])
            for request in requests
        ]


def run_behind_a_busy_thread(*jobs, max_batch=64, max_waiting=512):
    """Run jobs (version, where, texts) that all arrive while the only thread is busy.

    Returns:
        The passes after the first one, and per job its notes or its error.
    """
    gate = Gate()
    dispatcher = Dispatcher("test", gate, Metrics(), 1, max_waiting, max_batch)

    def submit(version, where, *texts):
        requests = [SearchRequest(make_text_query(text), where=where) for text in texts]
        return asyncio.ensure_future(
            dispatcher.run(version, requests, lambda _, results: [getattr(r, "note", r) for r in results], len(texts))
        )

    async def run():
        first = submit("", None, "first")
        await asyncio.to_thread(gate.started.wait, 20)
        others = [submit(*job) for job in jobs]
        await asyncio.sleep(0.05)
        gate.release.set()
        return [await first, *await asyncio.gather(*others, return_exceptions=True)]

    try:
        results = asyncio.run(run())
    finally:
        dispatcher.close()
    assert results[0] == ["first"]
    return gate.passes[1:], results[1:]


def test_query_that_finds_a_free_thread_is_answered_alone_and_waiting_ones_together():
    texts = [f"text {number}" for number in range(70)]
    passes, results = run_behind_a_busy_thread(*(("", None, text) for text in texts))
    assert passes == [texts[:64], texts[64:]]
    assert results == [[text] for text in texts]


def test_only_queries_of_one_version_and_filter_are_answered_together():
    passes, results = run_behind_a_busy_thread(
        ("", None, "a"), ("1", None, "b"), ("", "width > 1", "c"), ("", None, "d", "e"), ("1", None, "f"), ("", None)
    )
    assert passes == [["a", "d", "e"], ["b", "f"], ["c"]]
    assert results == [["a"], ["b"], ["c"], ["d", "e"], ["f"], []]


def test_request_is_never_split_over_two_passes():
    passes, _ = run_behind_a_busy_thread(("", None, "a"), ("", None, "b", "c", "d"), ("", None, "e"), max_batch=3)
    assert passes == [["a", "e"], ["b", "c", "d"]]


def test_failed_query_fails_alone():
    passes, results = run_behind_a_busy_thread(
        ("", None, "a"), ("", None, "bad"), ("", None, "crash"), ("none", None, "x")
    )
    assert results[0] == ["a"]
    assert str(results[1][0]) == "bad"
    assert isinstance(results[2], RuntimeError)
    assert results[3].status_code == 404
    assert passes == [["a", "bad", "crash"], ["a"], ["bad"], ["crash"]]


@pytest.mark.parametrize("cause", ["search", "batch", "version", "finish", "query", "time"])
def test_failed_request_is_freed_without_the_garbage_collector(monkeypatch, cause):
    class Searchers:
        @contextmanager
        def borrow(self, version):
            if cause == "version":
                raise HTTPException(404, "no such version")
            yield self

        def answer(self, requests, on_stage=None):
            alive.append(sum(ref() is not None for ref in passes))
            copies = Batch(requests)  # a variable of a function that fails
            passes.append(weakref.ref(copies))
            if cause == "time":
                release.wait(20)
            if cause in ("search", "batch"):
                raise RuntimeError("a crash")
            results = []
            for _ in copies:
                try:
                    raise ValueError("no such image")
                except ValueError as error:
                    results.append(error)
            return results

    class Batch(list):
        """A list that can be referred to weakly."""

    def finish(_, results):
        if cause == "finish":
            raise HTTPException(422, "bad") from results[0]
        return len(results)

    async def ask():
        requests = [SearchRequest(make_text_query("a"))]
        refs.append(weakref.ref(requests[0]))
        try:
            await dispatcher.run("", requests, finish)
        except (HTTPException, RuntimeError) as error:
            return type(error)
        finally:
            del requests

    async def run():
        with dispatcher._changed:  # so that they are taken together
            tasks = [asyncio.create_task(ask()) for _ in range(3 if cause == "batch" else 1)]
            await asyncio.sleep(0)
        return await asyncio.gather(*tasks)

    passes, alive, refs, release = [], [], [], threading.Event()
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.05 if cause == "time" else 20)
    dispatcher = Dispatcher("test", Searchers(), Metrics(), 1, 64, 64)
    gc.collect()
    gc.disable()
    try:
        failures = asyncio.run(run())
        dispatcher.close()
        release.set()
        for thread in dispatcher._threads:
            thread.join(20)
        assert [ref() for ref in refs + passes] == [None] * len(refs + passes)
    finally:
        gc.enable()
    assert (failures[0] is None) == (cause == "query")
    assert alive == ([0] * 4 if cause == "batch" else [] if cause == "version" else [0]), "no former pass is kept"


def test_too_many_waiting_queries_are_refused():
    _, results = run_behind_a_busy_thread(("", None, "a", "b"), ("", None, "c", "d"), ("", None, "e"), max_waiting=4)
    assert results[:2] == [["a", "b"], ["c", "d"]]
    assert isinstance(results[2], BusyError)


def test_answer_that_takes_too_long_is_ended_and_not_computed(monkeypatch):
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.02)
    gate = Gate()
    dispatcher = Dispatcher("test", gate, Metrics(), 1, 64, 64)

    async def run():
        jobs = [dispatcher.run("", [SearchRequest(make_text_query(text))], lambda *_: 1) for text in ("a", "b")]
        return await asyncio.gather(*jobs, return_exceptions=True)

    results = asyncio.run(run())
    assert [result.status_code for result in results] == [504, 504]
    gate.release.set()
    monkeypatch.undo()

    async def ask():
        return await dispatcher.run("", [SearchRequest(make_text_query("c"))], lambda *_: 1)

    assert asyncio.run(ask()) == 1
    assert ["b"] not in gate.passes, "nobody waits for it"
    dispatcher.close()
    with pytest.raises(BusyError):
        asyncio.run(ask())
