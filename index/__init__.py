"""Vector index: a sharded FAISS inverted file with metadata, published as immutable versions.

config: settings. collection: input vectors.
metadata: rows, filters and lookup. versions: manifests, the published version, tags, garbage collection.
ivf: FAISS files and their search. search: open a version and query it. tuning: nprobe and operating points.
building: build, update and compact. quality: audit and gate. exchange: export and import.
"""
