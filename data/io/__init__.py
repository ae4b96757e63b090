"""Files: atomic writes, locks and digests; independent of the content of the files."""

from data.io.columns import ColumnValue, dump_columns, find_period, parse_columns
from data.io.digests import digest, sha256_file, sha256_text
from data.io.errors import WriteError, describe_error, find_os_error, is_out_of_memory
from data.io.files import (
    TRANSIENT_ERRNOS,
    add_path_to_errors,
    atomic_write,
    check_output_file,
    fsync_path,
    is_within,
    read_json,
    remove_stale_temporaries,
    temporary_path,
    write_json,
    write_text,
)
from data.io.json_text import describe_parse_error, parse_json
from data.io.limits import MAX_SIDE, MAX_TEXT_BYTES, check_checkpoint, check_expansion, check_limit
from data.io.locks import WriteLockError, manifest_lock, write_lock
from data.io.schema import describe_other_version
from data.io.stamps import Stamp, is_settled, read_stamp
from data.io.together import atomic_write_together, restore_together

__all__ = [
    "MAX_SIDE",
    "MAX_TEXT_BYTES",
    "TRANSIENT_ERRNOS",
    "ColumnValue",
    "Stamp",
    "WriteError",
    "WriteLockError",
    "add_path_to_errors",
    "atomic_write",
    "atomic_write_together",
    "check_checkpoint",
    "check_expansion",
    "check_limit",
    "check_output_file",
    "describe_error",
    "describe_other_version",
    "describe_parse_error",
    "digest",
    "dump_columns",
    "find_os_error",
    "find_period",
    "fsync_path",
    "is_out_of_memory",
    "is_settled",
    "is_within",
    "manifest_lock",
    "parse_columns",
    "parse_json",
    "read_json",
    "read_stamp",
    "remove_stale_temporaries",
    "restore_together",
    "sha256_file",
    "sha256_text",
    "temporary_path",
    "write_json",
    "write_lock",
    "write_text",
]
