"""Client of the search service: requests go in, the answers of the API come out as typed models.

It imports neither torch nor faiss, and knows nothing of plans and indexes.
"""

from pipeline.service.client.connection import SearchServiceError
from pipeline.service.client.search_client import Part, SearchClient

__all__ = ["Part", "SearchClient", "SearchServiceError"]
