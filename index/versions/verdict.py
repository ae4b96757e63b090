"""Models of the verdict of a gate in a manifest: its measurements, their limits, and what could not be checked."""

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from index.config import QuerySource
from index.versions.objects import ManifestModel


class GateCheck(ManifestModel):
    """One measurement of the gate and its limit. JSON has no key for a field that is None.

    Attributes:
        count: number of rows or queries that `value` is the mean of
        served_value: the same measurement of the served version
        problem: what is wrong; of a check that measures nothing, empty if it passed
    """

    passed: bool
    value: float | None = None
    min: float | None = None
    max: float | None = None
    count: int | None = None
    unit: str | None = None
    served_value: float | None = None
    problem: str | None = None

    @model_serializer(mode="wrap")
    def _omit_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}

    def __str__(self) -> str:
        """Return the check in words, such as `0.97 over 250, minimum 0.9, served version 0.98`."""
        if self.value is None:
            return self.problem or "matches the manifest"
        value = f"{self.value:g} over {self.count}" if self.count is not None else f"{self.value:g} {self.unit or ''}"
        limits = {"minimum": self.min, "maximum": self.max, "served version": self.served_value}
        parts = [value.strip(), *(f"{name} {limit:g}" for name, limit in limits.items() if limit is not None)]
        return f"{', '.join(parts)}{f'; {self.problem}' if self.problem else ''}"


class GateVerdict(ManifestModel):
    """Result of the gate.

    JSON has `override_reason` and `rejected_version` only if the gate was overridden.

    Attributes:
        reason: the failed checks in words; empty if it passed
        query_digests: by kind, digest of the queries that were run
        query_sources: by kind, where these queries come from
        not_checked: by check, why it could not be made; such a check does not count
        compared_with: the served version at that time; None if there was none
        config: the `GateConfig`, as JSON
        override_reason: why this version is served although the gate rejected it; None if it was not overridden
        rejected_version: the rejected version with the same content; None if the gate was not overridden
    """

    passed: bool
    reason: str = ""
    checks: dict[str, GateCheck] = Field(default_factory=dict)
    query_digests: dict[str, str] = Field(default_factory=dict)
    query_sources: dict[str, QuerySource] = Field(default_factory=dict)
    not_checked: dict[str, str] = Field(default_factory=dict)
    compared_with: int | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    override_reason: str | None = None
    rejected_version: int | None = None

    def describe_not_checked(self) -> list[str]:
        """Return one line per reason, with the checks that could not be made."""
        names_by_reason: dict[str, list[str]] = {}
        for name, reason in sorted(self.not_checked.items()):
            names_by_reason.setdefault(reason, []).append(name)
        return [f"{', '.join(names)}: {reason}" for reason, names in names_by_reason.items()]

    @model_serializer(mode="wrap")
    def _omit_override(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        optional = ("override_reason", "rejected_version")
        return {name: value for name, value in handler(self).items() if value is not None or name not in optional}
