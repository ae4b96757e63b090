"""Prefect's command line takes a deployment by its bare name: `prefect deployment run extract-flickr`.

Stock Prefect takes FLOW/DEPLOYMENT only. Loaded through the entry point `prefect.plugins`, where `[plugins] enabled` of
prefect.toml switches plugins on; the hook is meant for environment variables, so that this is a patch of one method of
the client, held by a test. Workers and runs are started without it.
"""

import functools
import sys
from pathlib import Path
from typing import Any

from prefect.plugins import register_hook


@register_hook
def setup_environment(*, ctx: Any) -> None:
    """Prefect's start-up hook. It acts in the `prefect` command alone: a run or a notebook keeps the stock client."""
    if not _is_command_line():
        return
    from prefect.client.orchestration import PrefectClient  # lazy: only the command line needs it

    PrefectClient.read_deployment_by_name = accept_bare_name(PrefectClient.read_deployment_by_name)


def _is_command_line() -> bool:
    program = Path(sys.argv[0] if sys.argv else "")
    return (
        program.stem == "prefect" or program.parts[-2:] == ("prefect", "__main__.py") or "prefect" in sys.orig_argv[:3]
    )


def accept_bare_name(read_by_name: Any) -> Any:
    """`stock` (the client's read_deployment_by_name), taking a name without a slash too.

    A bare name is the deployment of that name whose flow has it too, else the only one so named. Raises ValueError that
    names the candidates where several fit.
    """

    @functools.wraps(read_by_name)
    async def read(client: Any, name: str) -> Any:
        if not name or "/" in name:
            return await read_by_name(client, name)
        from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName  # lazy: as above

        named = DeploymentFilter(name=DeploymentFilterName(any_=[name]))
        found = [
            (await client.read_flow(d.flow_id)).name for d in await client.read_deployments(deployment_filter=named)
        ]
        if len(found) > 1 and name not in found:
            several = ", ".join(sorted(f"{flow}/{name}" for flow in found))
            raise ValueError(f"{name!r} is the name of several deployments: say which of {several}.")
        flow = name if name in found or not found else found[0]
        return await read_by_name(client, f"{flow}/{name}")  # none found: the stock answer, "not found"

    return read
