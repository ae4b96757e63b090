"""From a plan to results, and from a query to hits. Knows nothing of Prefect.

workspace, progress, plan_files: names of the files of a workspace; progress bars; files of plans
plans: validated settings of one pipeline
lineage: what an index was made from
stages: dataset, extraction, training, embedding, evaluation, index
runs: the stages of a plan in order, worker processes, the stage log
search: a text or a photo to hits
pages: report, misses, galleries
service: the HTTP search service, its client, and the MCP server
cli: the command `tern`
"""

import importlib.machinery
import os.path

SISTERS = ("data", "extractors", "index", "tern")  # packages that this one imports


def _check_sisters() -> None:
    """Raise ImportError if a file of the user hides a sister package, such as a `data.py` beside the script.

    Without this, Python says that `data` is not a package. It is here because every use of the project imports this
    file before a sister; it takes 0.1 ms.
    """
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for name in SISTERS:
        spec = importlib.machinery.PathFinder.find_spec(name)
        if spec is None or not spec.origin:  # an editable installation, which Python asks after all folders
            continue
        found = os.path.dirname(spec.origin) if spec.submodule_search_locations else spec.origin
        if os.path.realpath(os.path.dirname(found)) != os.path.realpath(root):
            raise ImportError(
                f"{found} hides the package `{name}` of tern-retrieval, which is in {root}. Rename it, or move your "
                "script to another folder."
            )


_check_sisters()
