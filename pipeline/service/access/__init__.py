"""Who may use the search service: tokens, and the hosts and pages that requests come from."""
