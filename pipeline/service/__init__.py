"""Search service over HTTP: a plan goes in, a page and an API of JSON come out. Needs the extra `serve`.

The client and the MCP server (extra `mcp`) work without that extra.
"""
