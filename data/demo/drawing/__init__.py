"""Drawing of demo scenes: a place, a person or a thing in, pixels out; independent of positions or captions."""
