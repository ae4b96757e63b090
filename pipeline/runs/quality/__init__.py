"""What the ranks of an evaluation say: metrics of groups of queries, two evaluations compared, and files of TREC.

Ranks and vectors go in, records and files come out. The folder knows neither pages nor the command line.
"""

from pipeline.runs.quality.comparison import SplitComparison, compare_split, read_other_ranks
from pipeline.runs.quality.groups import GroupRow, measure_groups
from pipeline.runs.quality.trec_files import check_trec_folder, write_trec_files

__all__ = [
    "GroupRow",
    "SplitComparison",
    "check_trec_folder",
    "compare_split",
    "measure_groups",
    "read_other_ranks",
    "write_trec_files",
]
