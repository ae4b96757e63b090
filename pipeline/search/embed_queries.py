"""Query vectors: each part of a query is embedded, and the weighted vectors are added."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data.alignment import Embeddings
from data.io import check_limit
from index.metadata import Row
from index.search import Index
from pipeline.search.encode import QueryEncoder
from pipeline.search.image_files import find_image_file
from pipeline.search.query import (
    MAX_PARTS,
    MAX_WEIGHT,
    Box,
    ImagePart,
    Photo,
    PhotoPart,
    Query,
    TextPart,
    VectorPart,
)
from pipeline.search.stored_images import StoredImages, hash_photo

MAX_FILE_BYTES = 256 << 20  # of an image of which a region is cut out
MIN_SUM_LENGTH = 1e-3  # of the sum of the parts of a query; a shorter one has no direction


class QueryEmbedder:
    """Embeds queries for one version of an index.

    Args:
        index: The open version.
        encoder: Model and extractors of its vectors.
        stored_images: Regions of its images; None if they are not there.
        image_root: Folder of its images; None if it is not known.
        region_source: File or store of regions that the index was built from instead of an extractor; None: there is
            an extractor for new photos.
    """

    def __init__(
        self,
        index: Index,
        encoder: QueryEncoder,
        stored_images: StoredImages | None,
        image_root: Path | None,
        region_source: str | None = None,
    ) -> None:
        self._index, self._encoder, self._stored_images = index, encoder, stored_images
        self._image_root, self._region_source = image_root, region_source

    def embed(self, queries: Sequence[Query]) -> list[Embeddings | ValueError]:
        """Embed queries; their texts in one pass.

        Returns:
            Per query its vector (1, e) of unit length, with row vectors if it is one text that searches images, or one
            photo or image that searches captions: the model aligns no others. Or what is wrong with it: a part is
            invalid, or the parts cancel out.
        """
        vectors: dict[str, Embeddings | ValueError] = {}
        texts: dict[str, str] = {}
        possible = [query for query in queries if len(query.parts) <= MAX_PARTS]  # `_sum_parts` refuses the others
        for text in dict.fromkeys(text for query in possible for text in query.texts):
            try:
                texts[text] = self._encoder.check_text(text)
            except ValueError as error:
                vectors[text] = error
        if texts:
            embeddings = self._encoder.embed_texts(list(texts.values()))
            vectors |= {text: embeddings.select([number]) for number, text in enumerate(texts)}
        return [self._try_sum_parts(query, vectors) for query in queries]

    def _try_sum_parts(
        self, query: Query, vector_by_text: Mapping[str, Embeddings | ValueError]
    ) -> Embeddings | ValueError:
        try:
            return self._sum_parts(query, vector_by_text)
        except ValueError as error:
            return error

    def embed_photo(self, photo: Photo, box: Box | None = None) -> Embeddings:
        """Embed a photo or a region of it.

        If the plan takes its regions from a file or an external store, there is no detector for new photos. Then only
        photos with the bytes of a stored image can be embedded, from their stored regions.

        Returns:
            What the model computes of the photo.

        Raises:
            ValueError: The file is not a readable image, the box is not a region of it, or there is no detector and
                the photo is not stored.
        """
        if self._region_source is None:
            return self._encoder.embed_photo(photo, box)
        image_id = None if self._stored_images is None else self._stored_images.find(photo)
        if image_id is None:
            name = photo if isinstance(photo, Path) else "the photo"
            raise ValueError(
                f"{name} is not an image of this plan. The plan takes its regions from {self._region_source}, so it "
                "has no detector for new photos. Choose an image of the dataset, or a plan with a detector."
            )
        return self._embed_stored_regions(image_id, box)

    def find_own_images(self, query: Query) -> set[str]:
        """Find the ids of the images of the index that a query asks with; its results leave them out."""
        ids = {part.image_id for part in query.parts if isinstance(part, ImagePart) and part.weight > 0}
        photos = [part.photo for part in query.parts if isinstance(part, PhotoPart) and part.weight > 0]
        stored = None if self._region_source is None else self._stored_images
        for photo in photos:
            ids |= set(self._index.find_by_content(hash_photo(photo)))
            ids |= set(() if stored is None else stored.find_all(photo))
        return ids

    def _sum_parts(self, query: Query, vector_by_text: Mapping[str, Embeddings | ValueError]) -> Embeddings:
        """Return the vector (1, e) of a query, with row vectors if it has one part that the model can align."""
        if not 1 <= len(query.parts) <= MAX_PARTS:
            raise ValueError(f"A query has {len(query.parts)} parts. Pass 1 to {MAX_PARTS}.")
        for part in query.parts:
            if not abs(part.weight) <= MAX_WEIGHT:  # also not a number
                raise ValueError(
                    f"The weight {part.weight} is not a number from -{MAX_WEIGHT} to {MAX_WEIGHT}. Change it."
                )
        embeddings = []
        for part in query.parts:
            embedding = vector_by_text[part.text] if isinstance(part, TextPart) else self._embed_part(part)
            if isinstance(embedding, ValueError):
                raise embedding
            embeddings.append(embedding)
        if len(embeddings) == 1 and query.parts[0].weight >= MIN_SUM_LENGTH:
            is_aligned = isinstance(query.parts[0], TextPart) == (query.target == "image")
            return Embeddings(embeddings[0].vectors, embeddings[0].rows if is_aligned else None)
        weighted = [part.weight * one.vectors[0] for part, one in zip(query.parts, embeddings, strict=True)]
        total = np.sum(weighted, axis=0)
        length = float(np.linalg.norm(total))
        if not MIN_SUM_LENGTH <= length < np.inf:
            raise ValueError("The parts of a query cancel out. Change a weight, or leave out a part.")
        return Embeddings(np.asarray(total / length, np.float32)[None])

    def _embed_part(self, part: PhotoPart | ImagePart | VectorPart) -> Embeddings:
        match part:
            case PhotoPart(photo, box):
                return self.embed_photo(photo, box)
            case ImagePart(image_id, None):
                return self._read_image(self._get_row(image_id))
            case ImagePart(image_id, box):
                row = self._get_row(image_id)
                if self._region_source is None:
                    return self._encoder.embed_photo(self._read_file(row), box)
                return self._embed_stored_regions(image_id, box)
            case VectorPart(vector):
                return Embeddings(self._scale(vector)[None])

    def _read_image(self, row: Row) -> Embeddings:
        """Read the vector and the row vectors of an image of the index."""
        collection, keys = self._index.collection("image"), np.array([row.key])
        rows = None if collection.row_vectors is None else collection.row_vectors.get(keys)
        return Embeddings(self._scale(collection.vectors.get(keys)[0])[None], rows)

    def _embed_stored_regions(self, image_id: str, box: Box | None) -> Embeddings:
        stored = self._stored_images
        if stored is None or image_id not in stored:  # it became unreadable after it was indexed
            raise ValueError(f"The region store has no regions of {image_id!r}. Run `tern index` first.")
        regions = stored.read_regions(image_id) if box is None else stored.read_regions_in_box(image_id, box)
        return self._encoder.embed_regions([regions])

    def _read_file(self, row: Row) -> bytes:
        """Read the file of an image. The path is not for clients of a service, so no error names it."""
        from data.images import count_image_bytes, find_image_container, read_image  # lazy: as the decoder of photos

        path = find_image_file(self._image_root, row)
        if path is None or find_image_container(path) is None:  # a ValueError, so that only this query fails
            raise ValueError(
                f"The file of the image {row.id!r} is gone, so no region of it can be cut out. Restore it."
            )
        check_limit(f"the file of the image {row.id!r}", count_image_bytes(path), MAX_FILE_BYTES)
        return read_image(path)

    def _get_row(self, image_id: str) -> Row:
        row = self._index.get_metadata([image_id]).get(image_id)
        if row is None:
            raise ValueError(f"The index has no image {image_id[:200]!r}. Pass the id of a hit.")
        return row

    def _scale(self, vector: np.ndarray) -> np.ndarray:
        """Scale a vector of the index or of a caller to unit length."""
        dim = self._index.collection(self._index.kinds[0]).manifest.dim
        array = np.asarray(vector, np.float64)  # the length of large float32 numbers would be infinite
        length = float(np.linalg.norm(array)) if np.isfinite(array).all() else 0.0
        if array.shape != (dim,) or not 0 < length < np.inf:
            raise ValueError(
                f"The vector has shape {array.shape}; it must have {dim} finite numbers that are not all 0. Pass a "
                "vector of the model of the index."
            )
        return (array / length).astype(np.float32)
