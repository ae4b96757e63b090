"""Images of places, people and things of the demo scenes; knows nothing of where things are in a scene."""
