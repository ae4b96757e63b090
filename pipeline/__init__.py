"""From a plan to results, and from a query to hits. Knows nothing of Prefect.

workspace, progress, plan_files: names of the files of a workspace; progress bars; files of plans
plans: validated settings of one pipeline
lineage: what an index was made from
stages: dataset, extraction, training, embedding, evaluation, index
runs: the stages of a plan in order, worker processes, the stage log
search: a text or a photo to hits
pages: report, misses, galleries
service: the HTTP search service
cli: the command `tern`
"""
