"""The OpenAPI document of the service, and its operations as the pages that describe the API show them."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from pipeline.service.api.answer_body import Problem
from pipeline.service.api.query_body import SearchBody

INTRODUCTION = (
    "Search images with sentences, images, photos and vectors. Ids of hits lead to images, thumbnails and metadata. "
    "Errors have the media type application/problem+json (RFC 9457). If the service has tokens, send one as "
    "`Authorization: Bearer TOKEN`."
)
ADDRESS = "http://127.0.0.1:8080"
EXAMPLE_ID = "scene-00110.jpg"
Schema = Mapping[str, Any]


@dataclass(frozen=True)
class Parameter:
    """A parameter of an operation."""

    name: str
    location: str
    type: str
    default: str
    description: str
    is_required: bool
    choices: tuple[str, ...]
    """All values, if they are few"""
    example: str


@dataclass(frozen=True)
class Operation:
    """A route, as a page shows it."""

    method: str
    path: str
    summary: str
    parameters: tuple[Parameter, ...]
    body_type: str
    body_examples: tuple[str, ...]
    command: str
    """How `curl` calls it"""
    answer_example: str
    errors: tuple[tuple[str, str], ...]


def install_openapi(app: FastAPI) -> None:
    """Make the application describe bodies that its routes read by themselves, tokens and errors."""

    def make_document() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, description=INTRODUCTION, routes=app.routes)
            components = document.setdefault("components", {})
            _add_schemas(components.setdefault("schemas", {}), (SearchBody, Problem))
            components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{}, {"token": []}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = make_document  # type: ignore[method-assign]  # as FastAPI documents it


def _add_schemas(schemas: dict[str, Any], models: Sequence[type[BaseModel]]) -> None:
    for model in models:
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema


def list_operations(document: Schema) -> tuple[Operation, ...]:
    """List the operations of an OpenAPI document."""
    schemas = document["components"]["schemas"]
    return tuple(
        _make_operation(path, method, operation, schemas)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )


def _make_operation(path: str, method: str, operation: Schema, schemas: Schema) -> Operation:
    parameters = tuple(_make_parameter(parameter) for parameter in operation.get("parameters", ()))
    content = operation.get("requestBody", {}).get("content", {})
    reference = next((schema for kind in content.values() if (schema := kind["schema"].get("$ref"))), "")
    model = schemas.get(reference.rpartition("/")[2], {})
    examples = tuple(map(_format, model.get("examples", ())))
    answer = operation["responses"]["200"].get("content", {}).get("application/json", {}).get("schema", {})
    return Operation(
        method=method.upper(),
        path=path,
        summary=operation["summary"],
        parameters=parameters,
        body_type=" or ".join(content),
        body_examples=examples,
        command=_make_command(path, operation, model),
        answer_example=_format(make_example(answer, schemas)) if answer else "",
        errors=tuple((status, r["description"]) for status, r in operation["responses"].items() if status != "200"),
    )


def _format(value: Any) -> str:
    """Format JSON for people: objects over several lines, lists of numbers on one."""
    text = json.dumps(value, indent=2)
    return re.sub(
        r"\[[-\d.,\s]*\]", lambda match: re.sub(r"\s+", " ", match[0]).replace("[ ", "[").replace(" ]", "]"), text
    )


def _make_parameter(parameter: Schema) -> Parameter:
    schema = parameter["schema"]
    default = schema.get("default")
    is_required = parameter.get("required", False)
    return Parameter(
        name=parameter["name"],
        location=parameter["in"],
        type=" or ".join(_list_types(schema)),
        default="required" if is_required else "" if default is None else json.dumps(default),
        description=parameter.get("description", ""),
        is_required=is_required,
        choices=tuple(schema.get("enum", ("true", "false") if schema.get("type") == "boolean" else ())),
        example=str(schema.get("examples", ("",))[0]),
    )


def _list_types(schema: Schema) -> Iterator[str]:
    """Name the types of a schema with their bounds."""
    for part in schema.get("anyOf", (schema,)):
        if "enum" in part:
            yield " or ".join(part["enum"])
        elif (name := part.get("type", "any")) != "null":
            bounds = [str(part[key]) for key in ("minimum", "maximum") if key in part]
            yield f"{name}, {' to '.join(bounds)}" if bounds else name


def _make_command(path: str, operation: Schema, model: Schema) -> str:
    address = ADDRESS + path
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            address = address.replace(f"{{{parameter['name']}}}", EXAMPLE_ID)
    if "requestBody" in operation:
        if model:
            body = json.dumps(model["examples"][0])
            return f"curl -H 'Content-Type: application/json' -d '{body}' {address}"
        return f"curl --data-binary @photo.jpg '{address}?k=3'"
    values = [
        f"{parameter['name']}={quote(str(parameter['schema']['examples'][0]))}"
        for parameter in operation.get("parameters", ())
        if parameter.get("required") and parameter["in"] == "query"
    ]
    return f"curl '{address}{'?' + '&'.join(values) if values else ''}'"


def make_example(schema: Schema, schemas: Schema) -> Any:
    """Make a value that a schema describes, of its examples or of its types."""
    if "$ref" in schema:
        return make_example(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    if schema.get("examples"):
        return schema["examples"][0]
    if "anyOf" in schema:
        return make_example(schema["anyOf"][0], schemas)
    match schema.get("type"):
        case "object" if "properties" in schema:
            return {name: make_example(part, schemas) for name, part in schema["properties"].items()}
        case "object":
            return {}
        case "array":
            items = schema.get("prefixItems") or [schema.get("items", {})]
            return [make_example(item, schemas) for item in items]
        case "integer":
            return 1
        case "number":
            return 0.5
        case "boolean":
            return True
    return "text"
