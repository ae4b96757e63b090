"""Inverted files of FAISS: training, shard files, search over shards, GPU use.

In: vectors and keys. Out: files of inverted lists and of uncompressed vectors, and the best keys of a query. It is
independent of metadata and of published versions.
"""
