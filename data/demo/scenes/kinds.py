"""Table of the things of demo scenes: their size, the places where they can be, and what they can do.

Lengths are pixels in an image 300 pixels high, for a thing near the lower edge.
"""

from dataclasses import dataclass

PLACES: tuple[str, ...] = (
    "street",
    "beach",
    "park",
    "lake",
    "mountain",
    "snow",
    "kitchen",
    "stage",
    "baseball field",
    "soccer field",
    "city",
    "forest",
    "desert",
    "living room",
    "farm",
)
_PLACE_OF_LETTER = dict(zip("sbplmwkgBScfdra", PLACES, strict=True))
COLORS: tuple[str, ...] = ("red", "blue", "green", "white", "black", "pink", "purple", "gray")


@dataclass(frozen=True)
class Kind:
    """One kind of thing."""

    name: str
    plural: str
    emoji: str
    """Emoji that shows it; empty if it is drawn by code."""
    family: str
    """person, rider, animal, bird, vehicle, boat, aircraft, plant, furniture, object, food, instrument or ball."""
    height: int
    """Height in pixels."""
    zone: str
    """Where it is in the image: ground, water, sky, table or hand."""
    places: tuple[str, ...]
    actions: tuple[str, ...]


# Columns: name, plural, emoji, family, height, zone, places (one letter each), actions.
_TABLE = """
man|men|🧔|person|128|ground|sbplmwkgBScfdra|
woman|women|👩|person|122|ground|sbplmwkgBScfdra|
boy|boys|👦|person|96|ground|sbplmwkgBScfdra|
girl|girls|👧|person|94|ground|sbplmwkgBScfdra|
old man|old men|👴|person|120|ground|sbplmwkgcfra|
old woman|old women|👵|person|114|ground|sbplmwkgcfra|
baby|babies|👶|person|60|ground|bplkra|sit
surfer|surfers|🏄|rider|84|water|b|surf
skier|skiers|⛷|rider|92|ground|mw|ski
dancer|dancers|💃|rider|122|ground|sgcbr|dance
cyclist|cyclists|🚴|rider|112|ground|splmcfd|ride
dog|dogs|🐕|animal|62|ground|sbplmwkScfra|stand run sleep
cat|cats|🐈|animal|56|ground|spkcra|stand run sleep
horse|horses|🐎|animal|98|ground|bplmwda|run
cow|cows|🐄|animal|86|ground|plma|stand run
pig|pigs|🐖|animal|64|ground|spfa|stand run sleep
sheep|sheep|🐑|animal|66|ground|plmwa|stand run
goat|goats|🐐|animal|74|ground|mlda|stand run
rabbit|rabbits|🐇|animal|54|ground|pwfa|stand run
rooster|roosters|🐓|animal|56|ground|sa|stand
elephant|elephants|🐘|animal|124|ground|gdfp|stand run
camel|camels|🐪|animal|112|ground|db|stand run
deer|deer|🦌|animal|98|ground|lmwf|stand run
monkey|monkeys|🐒|animal|70|ground|fgps|stand
tiger|tigers|🐅|animal|72|ground|wfdg|stand run sleep
giraffe|giraffes|🦒|animal|146|ground|dfp|stand
penguin|penguins|🐧|animal|68|ground|wb|stand
squirrel|squirrels|🐿|animal|54|ground|pf|stand
duck|ducks|🦆|bird|46|water|lb|swim
swan|swans|🦢|bird|52|water|l|swim
eagle|eagles|🦅|bird|54|sky|blmwfd|fly
parrot|parrots|🦜|bird|50|ground|bfgr|stand
butterfly|butterflies|🦋|bird|40|sky|pfa|fly
car|cars|🚗|vehicle|70|ground|scmwd|drive park
bus|buses|🚌|vehicle|100|ground|sc|drive park
truck|trucks|🚚|vehicle|96|ground|scda|drive park
tractor|tractors|🚜|vehicle|98|ground|a|drive park
taxi|taxis|🚕|vehicle|72|ground|sc|drive park
police car|police cars|🚓|vehicle|72|ground|sc|drive park
fire truck|fire trucks|🚒|vehicle|98|ground|sc|drive park
bicycle|bicycles|🚲|vehicle|72|ground|spl|park
motorcycle|motorcycles|🏍|vehicle|72|ground|scd|park
sailboat|sailboats|⛵|boat|84|water|lb|float
canoe|canoes|🛶|boat|44|water|l|float
airplane|airplanes|🛩|aircraft|62|sky|sbmdcS|fly
helicopter|helicopters|🚁|aircraft|62|sky|smcwd|fly
skateboard|skateboards|🛹|vehicle|30|ground|sp|rest
violin|violins|🎻|instrument|60|hand||
guitar|guitars|🎸|instrument|62|hand||
trumpet|trumpets|🎺|instrument|46|hand||
saxophone|saxophones|🎷|instrument|56|hand||
drum|drums|🥁|instrument|56|ground|gr|rest
microphone|microphones|🎤|instrument|40|hand||
soccer ball|soccer balls|⚽|ball|30|ground|bpS|rest
basketball|basketballs|🏀|ball|34|ground|sp|rest
baseball|baseballs|⚾|ball|26|hand||
football|footballs|🏈|ball|32|ground|pS|rest
baseball bat|baseball bats||object|60|hand||
pizza|pizzas|🍕|food|42|table|k|rest
cake|cakes|🎂|food|48|table|k|rest
apple|apples|🍎|food|34|table|k|rest
watermelon|watermelons|🍉|food|42|table|k|rest
ice cream|ice creams|🍦|food|44|hand||
hamburger|hamburgers|🍔|food|40|table|k|rest
tree|trees|🌳|plant|138|ground|splBSa|grow
pine tree|pine trees|🌲|plant|140|ground|mwlf|grow
palm tree|palm trees|🌴|plant|140|ground|bd|grow
cactus|cacti|🌵|plant|94|ground|d|grow
sunflower|sunflowers|🌻|plant|70|ground|pa|grow
couch|couches|🛋|furniture|100|ground|r|rest
chair|chairs|🪑|furniture|76|ground|krg|rest
television|televisions|📺|furniture|84|ground|r|rest
bench|benches||furniture|56|ground|splc|rest
umbrella|umbrellas|☂|object|60|hand||
beach umbrella|beach umbrellas|⛱|object|112|ground|b|rest
kite|kites|🪁|object|60|hand||
camera|cameras|📷|object|40|hand||
tent|tents|⛺|object|88|ground|lmfdw|rest
balloon|balloons|🎈|object|52|hand||
suitcase|suitcases|🧳|object|56|hand||
book|books|📖|object|40|hand||
laptop|laptops|💻|object|44|table|k|rest
teddy bear|teddy bears|🧸|object|50|ground|r|rest
snowman|snowmen|⛄|object|92|ground|w|rest
campfire|campfires|🔥|object|56|ground|bfdm|rest
"""


def _parse_row(line: str) -> Kind:
    name, plural, emoji, family, height, zone, places, actions = line.split("|")
    allowed = tuple(_PLACE_OF_LETTER[letter] for letter in places)
    return Kind(name, plural, emoji, family, int(height), zone, allowed, tuple(actions.split()))


KINDS: dict[str, Kind] = {kind.name: kind for kind in map(_parse_row, _TABLE.strip().splitlines())}
THINGS: tuple[str, ...] = tuple(KINDS)
CLASSES: tuple[str, ...] = THINGS + PLACES
PEOPLE: tuple[str, ...] = tuple(name for name, kind in KINDS.items() if kind.family == "person")
# Action of a person -> places. After "hold", "play" and "ride", a colon and the thing follow.
ACTIONS: dict[str, tuple[str, ...]] = {
    action: tuple(_PLACE_OF_LETTER[letter] for letter in letters)
    for action, letters in {
        "stand": "sbplmwkgBScfdra",
        "walk": "sbplmwcfda",
        "run": "sbplwBScfa",
        "jump": "sbpwgSBrla",
        "sit": "bplgfr",
        "dance": "gcrbs",
        "look": "lbmwcd",
        "hold:violin": "gsprc",
        "hold:guitar": "gsprbcf",
        "hold:umbrella": "sbpmcw",
        "hold:balloon": "spbgra",
        "hold:ice cream": "sbpck",
        "hold:camera": "sbplmcdw",
        "hold:book": "prkgfl",
        "hold:suitcase": "scbr",
        "hold:kite": "bpSla",
        "hold:football": "SpB",
        "hold:basketball": "spc",
        "hold:baseball bat": "Bp",
        "hold:cake": "kr",
        "hold:pizza": "krs",
        "hold:apple": "kaf",
        "hold:watermelon": "kbp",
        "hold:microphone": "gcr",
        "hold:hamburger": "kspbB",
        "play:violin": "gsprc",
        "play:guitar": "gsprbf",
        "play:trumpet": "gspc",
        "play:saxophone": "gsrc",
        "play:baseball bat": "Bp",
        "play:soccer ball": "Spbs",
        "play:basketball": "sp",
        "ride:bicycle": "splcf",
        "ride:motorcycle": "sdc",
        "ride:skateboard": "spc",
        "ride:horse": "bpmadlw",
        "ride:camel": "db",
        "ride:elephant": "gfd",
    }.items()
}
ACTIONS_NOT_FOR_OLD = ("jump", "run", "ride:skateboard", "play:soccer ball", "play:basketball", "hold:kite")


def is_allowed(kind: str, action: str, place: str) -> bool:
    """Return whether a thing of this kind can do this action in this place.

    Args:
        kind: Key of `KINDS`.
        action: Action, with its object after a colon if it has one, such as "ride:bicycle".
        place: Name of a place.
    """
    entry = KINDS[kind]
    if place not in entry.places:
        return False
    if entry.family == "person" and kind != "baby":
        return place in ACTIONS.get(action, ()) and not (kind.startswith("old") and action in ACTIONS_NOT_FOR_OLD)
    return action in entry.actions
