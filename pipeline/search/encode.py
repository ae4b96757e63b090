"""Query vectors of new texts and photos, computed as the vectors of stored captions and images were."""

from collections.abc import Sequence

from data.alignment import Embeddings
from data.text import printable
from extractors.torch_free import Word
from pipeline.origin import Origin
from pipeline.search.encoder_pool import EncoderPool
from pipeline.search.query import Box, Photo
from tern.query import ImageRegions

MAX_QUERY_CHARACTERS = 2_000
MAX_PHOTO_PIXELS = 6_000_000  # of a photo that is decoded at full size; a detector takes about 36 bytes per pixel
CROPPED_PHOTO_SIDE = 2_400  # pixels; maximum side after decoding of a photo of which a region is used
MAX_FULL_PIXELS, MAX_SCANNED_PIXELS = 24_000_000, 640_000_000  # of a photo, see `data.images.DecodeLimits`


class QueryEncoder:
    """The model and the extractors of an index. The region extractor is loaded when the first photo needs it.

    Args:
        origin: Names of the model and the stores that the index was built from.
        pool: Loaded models and extractors.

    Raises:
        FileNotFoundError: The model is missing.
        ValueError: The model does not fit to the index.
    """

    def __init__(self, origin: Origin, pool: EncoderPool) -> None:
        self._origin, self._pool = origin, pool
        self._model = pool.get_model(origin)

    @property
    def has_region_extractor(self) -> bool:
        """Whether there is an extractor for new photos."""
        return self._pool.has_region_extractor

    def load(self) -> None:
        """Load now what the first text query needs."""
        self._model.load()

    def check_text(self, text: str) -> str:
        """Return a text query with single spaces.

        Raises:
            ValueError: It is empty or longer than `MAX_QUERY_CHARACTERS`, or the model knows no part of it.
        """
        text = " ".join(text.split())
        if not text or len(text) > MAX_QUERY_CHARACTERS:
            raise ValueError(
                f"The query has {len(text):,} characters; it must have 1 to {MAX_QUERY_CHARACTERS:,} characters. "
                "Enter a longer or shorter text."
            )
        if not self.knows(text):  # every such text has the same vector
            raise ValueError(
                f"The model knows no part of the query '{printable(text[:80])}', so that any hit would be arbitrary. "
                "Describe the image in words of the language of the text model."
            )
        return text

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """Embed texts in one pass.

        Args:
            texts: Texts as `check_text` returns them, at least one.

        Returns:
            What the model computes of the texts.
        """
        return self._model.embed_texts(texts)

    def find_words(self, text: str) -> list[Word]:
        """Find the words of a text in its tokens; positions are those in a text as `check_text` returns it."""
        return self._model.find_words(" ".join(text.split()))

    def knows(self, text: str) -> bool:
        """Return whether the model knows a part of a text."""
        num_unknown, num_tokens = self._count_unknown(text)
        return num_unknown < num_tokens

    def describe_unknown(self, text: str) -> str:
        """Return a note about the words of a query that the model does not know; empty if it knows all of them."""
        num_unknown, num_tokens = self._count_unknown(text)
        return f"The model does not know {num_unknown} of the {num_tokens} parts of the query." if num_unknown else ""

    def _count_unknown(self, text: str) -> tuple[int, int]:
        """Count the unknown tokens of a text, and all of its tokens except [CLS] and [SEP]."""
        ids, unknown_id = self._model.tokenize([text])[0][1:-1], self._model.unknown_id
        return 0 if unknown_id is None else ids.count(unknown_id), len(ids)

    def embed_photo(self, photo: Photo, box: Box | None = None) -> Embeddings:
        """Detect the regions of a photo, or of a part of it, and embed it.

        A photo of more than `MAX_PHOTO_PIXELS` is reduced while it is decoded, to a size above the input of the
        detector. For an extractor with a smaller input it is decoded as the stored images were, with the same result.

        Args:
            photo: Image file, or its content.
            box: Part that is cut out and embedded as if it were a photo of its own; None is the whole photo.

        Returns:
            What the model computes of the photo.

        Raises:
            ValueError: The photo is not a readable image or exceeds the limits, the box is not a region of it, or
                the region extractor of the plan is not the one of the index.
        """
        from data.images import DecodeLimits, crop_image, load_reduced_image  # lazy: Pillow is for photos

        limits = DecodeLimits(max_full_pixels=MAX_FULL_PIXELS, max_scanned_pixels=MAX_SCANNED_PIXELS)
        extractor = self._pool.get_region_extractor(self._origin.regions)
        if box is not None:
            sides = (CROPPED_PHOTO_SIDE, CROPPED_PHOTO_SIDE)
            image = crop_image(load_reduced_image(photo, sides, limits, MAX_PHOTO_PIXELS), box)
        elif extractor.min_decoded_side is None:  # a detector takes more memory per pixel than the decoder
            side = self._pool.photo_side
            image = load_reduced_image(photo, (side, side), limits, MAX_PHOTO_PIXELS)
        else:
            image = extractor.load(photo, limits)
        regions = extractor.extract_reduced(image)
        return self.embed_regions([(regions.features, regions.boxes, regions.size, regions.scores)])

    def embed_regions(self, images: Sequence[ImageRegions]) -> Embeddings:
        """Embed images whose regions are known, at least one."""
        return self._model.embed_images(images)
