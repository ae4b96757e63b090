"""Words of the captions: names of things, actions and places.

Every list has alternatives with the same meaning; an alternative that occurs twice is chosen twice as often.
"""

from data.demo.scenes.kinds import KINDS

# Other names of a kind, singular/plural, besides its own name.
_NAMES = {
    "man": "guy/guys gentleman/gentlemen",
    "woman": "lady/ladies young_woman/young_women",
    "boy": "young_boy/young_boys little_boy/little_boys",
    "girl": "young_girl/young_girls little_girl/little_girls",
    "old man": "elderly_man/elderly_men older_man/older_men",
    "old woman": "elderly_woman/elderly_women older_woman/older_women",
    "baby": "infant/infants little_baby/little_babies",
    "skier": "skier_in_an_orange_jacket/skiers_in_orange_jackets",
    "dancer": "dancer_in_a_red_dress/dancers_in_red_dresses woman_in_a_red_dress/women_in_red_dresses",
    "cyclist": "bicyclist/bicyclists cyclist_with_a_helmet/cyclists_with_helmets",
    "dog": "spotted_dog/spotted_dogs white_and_brown_dog/white_and_brown_dogs",
    "cat": "orange_cat/orange_cats kitty/kitties",
    "horse": "brown_horse/brown_horses",
    "cow": "black_and_white_cow/black_and_white_cows dairy_cow/dairy_cows",
    "pig": "pink_pig/pink_pigs",
    "sheep": "white_sheep/white_sheep woolly_sheep/woolly_sheep",
    "goat": "brown_goat/brown_goats",
    "rabbit": "bunny/bunnies gray_rabbit/gray_rabbits",
    "rooster": "colorful_rooster/colorful_roosters",
    "elephant": "gray_elephant/gray_elephants big_elephant/big_elephants",
    "deer": "brown_deer/brown_deer",
    "monkey": "brown_monkey/brown_monkeys",
    "tiger": "striped_tiger/striped_tigers",
    "giraffe": "tall_giraffe/tall_giraffes",
    "squirrel": "chipmunk/chipmunks",
    "duck": "mallard_duck/mallard_ducks",
    "swan": "white_swan/white_swans",
    "eagle": "bald_eagle/bald_eagles large_bird/large_birds",
    "parrot": "green_parrot/green_parrots",
    "butterfly": "orange_butterfly/orange_butterflies",
    "car": "red_car/red_cars",
    "bus": "blue_and_white_bus/blue_and_white_buses city_bus/city_buses",
    "truck": "delivery_truck/delivery_trucks",
    "tractor": "green_tractor/green_tractors",
    "taxi": "yellow_taxi/yellow_taxis taxi_cab/taxi_cabs",
    "fire truck": "fire_engine/fire_engines red_fire_truck/red_fire_trucks",
    "bicycle": "bike/bikes",
    "motorcycle": "motorbike/motorbikes",
    "sailboat": "sailing_boat/sailing_boats boat_with_red_sails/boats_with_red_sails",
    "canoe": "wooden_canoe/wooden_canoes",
    "airplane": "plane/planes small_plane/small_planes",
    "helicopter": "yellow_helicopter/yellow_helicopters",
    "guitar": "electric_guitar/electric_guitars red_guitar/red_guitars",
    "saxophone": "sax/saxes",
    "drum": "red_drum/red_drums",
    "ice cream": "ice_cream_cone/ice_cream_cones",
    "cake": "birthday_cake/birthday_cakes",
    "hamburger": "burger/burgers",
    "pizza": "slice_of_pizza/slices_of_pizza",
    "watermelon": "slice_of_watermelon/slices_of_watermelon",
    "apple": "red_apple/red_apples",
    "tree": "big_tree/big_trees green_tree/green_trees",
    "pine tree": "fir_tree/fir_trees",
    "palm tree": "palm/palms",
    "couch": "sofa/sofas blue_couch/blue_couches",
    "chair": "wooden_chair/wooden_chairs",
    "television": "tv/tvs old_television/old_televisions",
    "bench": "wooden_bench/wooden_benches",
    "umbrella": "purple_umbrella/purple_umbrellas",
    "beach umbrella": "red_and_white_beach_umbrella/red_and_white_beach_umbrellas",
    "kite": "colorful_kite/colorful_kites",
    "tent": "orange_tent/orange_tents",
    "balloon": "red_balloon/red_balloons",
    "suitcase": "blue_suitcase/blue_suitcases",
    "book": "open_book/open_books",
    "campfire": "fire/fires",
    "teddy bear": "stuffed_bear/stuffed_bears",
}


def noun_variants(kind: str, number: int) -> list[str]:
    """Return the nouns for a kind, singular or plural by `number`; its own name is first and occurs twice."""
    name = KINDS[kind].name if number == 1 else KINDS[kind].plural
    others = [pair.split("/")[number != 1].replace("_", " ") for pair in _NAMES.get(kind, "").split()]
    return [name, name, *others]


# Actions as participles. "{x}" is the thing after the colon, with its article or in the plural.
ACTION_PHRASES = {
    "stand": ("standing", "standing"),
    "walk": ("walking", "walking", "strolling", "taking a walk"),
    "run": ("running", "running", "running fast"),
    "jump": ("jumping", "jumping in the air", "jumping with arms raised", "leaping"),
    "sit": ("sitting {ground}", "sitting {ground}", "seated {ground}"),
    "dance": ("dancing", "dancing", "doing a dance"),
    "look": (
        "looking at {view}", "standing, looking at {view}", "standing and looking at {view}", "looking out at {view}",
        "staring at {view}", "gazing at {view}",
    ),
    "sleep": ("sleeping", "sleeping", "taking a nap", "fast asleep"),
    "swim": ("swimming", "swimming", "floating"),
    "fly": ("flying", "flying in the sky", "flying"),
    "drive": ("driving", "driving", "speeding"),
    "park": ("parked",),
    "float": ("floating", "floating", "drifting"),
    "surf": ("surfing", "riding a wave"),
    "ski": ("skiing", "skiing downhill"),
    "ride": ("cycling", "riding a bike", "riding"),
    "rest": ("",),
    "grow": ("",),
    "hold": ("holding {x}", "holding {x}", "with {x}"),
    "hold:umbrella": ("holding {x}", "standing under {x}", "with {x}"),
    "hold:suitcase": ("carrying {x}", "holding {x}", "with {x}"),
    "hold:kite": ("flying {x}", "holding {x}", "playing with {x}"),
    "hold:book": ("reading {x}", "holding {x}", "reading {x}"),
    "hold:camera": ("holding {x}", "taking pictures with {x}", "taking a photo with {x}"),
    "hold:microphone": ("holding {x}", "singing into {x}"),
    "play": ("playing {x}", "playing {x}", "performing with {x}"),
    "play:baseball bat": ("playing baseball", "playing baseball", "playing a game of baseball"),
    "play:soccer ball": ("playing soccer", "playing soccer", "kicking {x}"),
    "play:basketball": ("playing basketball", "playing basketball", "playing with a basketball"),
    "ride:": ("riding {x}", "riding {x}", "riding on {x}"),
}  # fmt: skip
ALONE = {"play:baseball bat": ("swinging a baseball bat", "playing baseball", "hitting a baseball")}
VIEWS = {
    "lake": ("a lake", "the lake", "a lake", "the blue lake"),
    "beach": ("the ocean", "the sea", "the sea"),
    "mountain": ("the mountains", "snowy mountains", "the mountain peaks"),
    "snow": ("the snowy trees", "the snow", "the winter landscape"),
    "city": ("the city lights", "the city at night"),
    "desert": ("the desert", "the desert hills"),
}
GROUNDS = {
    "park": ("on the grass", "on the ground"),
    "lake": ("on the grass", "on the shore"),
    "beach": ("on the sand", "on the ground"),
    "living room": ("on the floor",),
    "kitchen": ("on the floor",),
    "stage": ("on the floor",),
}
# Columns: any action | moving things | on the water | in the sky.
_WHERE = {
    "street": (
        "on a street;in the street;on the road;on a city street in the daytime|"
        "along the street;down the street;along the road|"
        "|"
        "over a street;above the buildings"
    ),
    "beach": (
        "on the beach;at the beach;on a sandy beach|"
        "along the beach;across the sand|"
        "in the sea;near the beach;in the ocean|"
        "over the beach;above the sea"
    ),
    "park": (
        "in a park;in the park;in a grassy park|through the park;across the grass in a park||over a park;in the park"
    ),
    "lake": (
        "by a lake;near a lake;beside the lake;on the shore of a lake|"
        "along the shore of a lake;along the lake|"
        "on a lake;on the lake;in the lake|"
        "over a lake;above the lake"
    ),
    "mountain": (
        "in the mountains;in front of snowy mountains;near the mountains|"
        "through the mountains;in the mountains|"
        "|"
        "over the mountains;above the mountains"
    ),
    "snow": (
        "in the snow;in a snowy field;on a snowy day|"
        "through the snow;across a snowy field|"
        "|"
        "over a snowy field;above the snow"
    ),
    "kitchen": ("in a kitchen;in the kitchen|in a kitchen;across the kitchen||in a kitchen"),
    "stage": ("on a stage;on stage;on a stage with red curtains|across the stage;on a stage||over a stage"),
    "baseball field": (
        "on a baseball field;at a baseball stadium;on the baseball diamond|"
        "across a baseball field;on a baseball field|"
        "|"
        "over a baseball field"
    ),
    "soccer field": (
        "on a soccer field;in a soccer stadium|"
        "across a soccer field;on a soccer field|"
        "|"
        "over a soccer field;above a soccer stadium"
    ),
    "city": (
        "in a city at night;on a dark city street at night;in the city at night|"
        "through the city at night;down a city street at night|"
        "|"
        "over a city at night;above the city at night"
    ),
    "forest": (
        "in a forest;in the woods;in the forest|through the forest;through the woods||over a forest;in the forest"
    ),
    "desert": (
        "in the desert;in a sandy desert|across the desert;through the desert||over the desert;above the desert"
    ),
    "living room": ("in a living room;in the living room|across the living room;in a living room||in a living room"),
    "farm": (
        "on a farm;in a field on a farm;near a red barn|"
        "across a farm field;past a red barn|"
        "|"
        "over a farm;above a farm field"
    ),
}
_COLUMN = {"ground": 0, "moving": 1, "water": 2, "sky": 3}


def place_phrases(place: str, column: str) -> list[str]:
    """Return phrases for a place: for things on the ground, `moving` ones, on the `water` or in the `sky`."""
    return _WHERE[place].split("|")[_COLUMN[column]].split(";")


# Less specific names of people, singular and plural.
LOOSE = {
    "man": ("person", "people"),
    "woman": ("person", "people"),
    "boy": ("child", "children"),
    "girl": ("child", "kids"),
}
COUNTS = {
    2: ("two", "two", "two", "a couple of", "a pair of"),
    3: ("three", "three", "three", "a group of three"),
    4: ("four", "four", "four", "a group of four"),
}
