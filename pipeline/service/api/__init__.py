"""Routes of the search service: searches, images, versions, health, the page and the description of the API."""
