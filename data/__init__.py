"""Datasets on disk in, records and stores of features or vectors out; independent of models.

text, settings, config: safe text, environment variables, settings of a plan.
io: atomic writes, locks, digests.
manifest: store manifests, without numpy and h5py.
images: image files to pixels, folders of images, cached file hashes.
datasets: annotations to images and captions with ids and splits.
store: HDF5 shards of features or vectors.
formats, exchange: region features of other software, in and out.
demo: the generated demo dataset.
"""
