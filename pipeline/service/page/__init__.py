"""The search page: HTML, CSS and JavaScript modules that use the API, and the page that describes the API."""
