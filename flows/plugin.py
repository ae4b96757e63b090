"""Plugin of the `prefect` command that accepts a deployment by its name: `prefect deployment run extract-flickr`.

Prefect itself accepts only FLOW/DEPLOYMENT. Prefect loads the plugin through the entry point `prefect.plugins` if
`[plugins] enabled` is set in prefect.toml. Its hook is meant for environment variables, so the plugin replaces one
method of the client; a test checks that. Workers and runs start without plugins.
"""

import functools
import sys
from pathlib import Path
from typing import Any

from prefect.plugins import register_hook


@register_hook
def setup_environment(*, ctx: Any) -> None:
    """Replace a method of the client when the `prefect` command starts.

    Prefect calls this hook in every process; runs and notebooks keep the original client.
    """
    if not _is_command_line():
        return
    from prefect.client.orchestration import PrefectClient  # lazy: only the command line needs it

    method = accept_bare_name(PrefectClient.read_deployment_by_name)
    PrefectClient.read_deployment_by_name = method  # type: ignore[method-assign]  # Prefect has no hook for it


def _is_command_line() -> bool:
    program = Path(sys.argv[0] if sys.argv else "")
    return (
        program.stem == "prefect" or program.parts[-2:] == ("prefect", "__main__.py") or "prefect" in sys.orig_argv[:3]
    )


def accept_bare_name(read_by_name: Any) -> Any:
    """Extend `read_deployment_by_name` of the client to accept a name without a slash.

    Such a name means the deployment whose flow has the same name, else the only deployment of this name.

    Args:
        read_by_name: The method of the client.

    Returns:
        The extended method. It raises ValueError, with the candidates, if several deployments have the name.
    """

    @functools.wraps(read_by_name)
    async def read_deployment(client: Any, name: str) -> Any:
        if not name or "/" in name:
            return await read_by_name(client, name)
        from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName  # lazy: as above

        by_name = DeploymentFilter(name=DeploymentFilterName(any_=[name]))
        flow_names = [
            (await client.read_flow(d.flow_id)).name for d in await client.read_deployments(deployment_filter=by_name)
        ]
        if len(flow_names) > 1 and name not in flow_names:
            candidates = ", ".join(sorted(f"{flow}/{name}" for flow in flow_names))
            raise ValueError(f"{name!r} is the name of several deployments. Pass one of {candidates}.")
        flow = name if name in flow_names or not flow_names else flow_names[0]
        return await read_by_name(client, f"{flow}/{name}")  # without a match, the client reports "not found"

    return read_deployment
