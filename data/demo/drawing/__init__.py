"""Drawing of demo scenes: a place, a person or a thing in, pixels out; knows nothing of positions or captions."""
