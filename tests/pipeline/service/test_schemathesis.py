"""The service answers what its OpenAPI document says, whatever is asked; drawn by schemathesis from the document."""

import pytest

from tests.helpers.fake_searchers import FakeReloader, FakeSearcher

pytest.importorskip("fastapi")

from pipeline.service.app import create_app

pytestmark = pytest.mark.slow


def test_service_answers_as_its_document_says(tmp_path):
    schemathesis = pytest.importorskip("schemathesis")  # two seconds of imports, which each process would pay above
    from hypothesis import HealthCheck, given, settings
    from hypothesis.errors import Unsatisfiable
    from schemathesis import GenerationMode, checks

    required = [
        checks.not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]
    app = create_app(FakeReloader(FakeSearcher(), tmp_path), {"testserver"})
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", app)
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 10
    for operation in operations:
        # The pytest plugin of schemathesis 4.32 does not work with pytest 9.2, so its strategies are used directly.
        for mode in GenerationMode:

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
            def check(case):
                case.validate_response(case.call(), checks=required)

            try:
                check()
            except Unsatisfiable:  # some operations have no invalid requests
                assert mode == GenerationMode.NEGATIVE
