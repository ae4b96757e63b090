"""Images in tar shards and Parquet files, read where they are: lists of their members, and one read per image."""
