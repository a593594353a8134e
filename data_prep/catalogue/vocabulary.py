"""Every word and colour of the built-in catalogue, as tables: nothing here is drawn by chance.

What only the picture shows (colour, pattern) is kept apart from what the text may name (brand,
series, kind, material, features). A test makes sure that no text of a product ever uses a word of
the first group. Neighbours are unordered pairs, so that being a neighbour is symmetric by
construction.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Place = Literal["stand", "lean", "hang", "lie"]


class Colour(NamedTuple):
    """A shade (sRGB, 0 to 255) and what shoppers call it, the usual name first."""

    rgb: tuple[int, int, int]
    names: tuple[str, ...]


class Pattern(NamedTuple):
    """Words for a pattern: before the noun ("striped"), and after it ("with stripes")."""

    adjectives: tuple[str, ...]
    phrases: tuple[str, ...]


class Feature(NamedTuple):
    """Something only the description tells: its sentences, and how terse and wordy shoppers ask."""

    sentences: tuple[str, ...]
    terse: tuple[str, ...]
    phrases: tuple[str, ...]


class Kind(NamedTuple):
    """A kind of object.

    `nouns` are the words of titles (the usual one first); queries also use `query_nouns`, and
    `purpose` paraphrases the noun ("something to drink coffee from"). `countable` nouns take an
    article. `shapes` distinguish designs in the picture; `place` says how the object is posed.
    """

    nouns: tuple[str, ...]
    query_nouns: tuple[str, ...]
    purpose: str
    countable: bool
    place: Place
    shapes: tuple[str, ...]
    materials: tuple[str, ...]
    features: tuple[str, ...]
    sizes: tuple[str, ...]
    uses: tuple[str, ...]


COLOURS = {
    "white": Colour((243, 242, 238), ("white", "snow white", "pure white")),
    "beige": Colour((214, 193, 158), ("beige", "sand coloured", "cream")),
    "grey": Colour((146, 149, 153), ("grey", "gray", "slate")),
    "black": Colour((36, 36, 39), ("black", "jet black", "ebony")),
    "brown": Colour((110, 70, 44), ("brown", "chocolate", "chestnut")),
    "red": Colour((188, 36, 42), ("red", "scarlet", "crimson")),
    "pink": Colour((236, 158, 176), ("pink", "blush", "rose pink")),
    "orange": Colour((228, 120, 46), ("orange", "tangerine", "pumpkin")),
    "yellow": Colour((240, 196, 62), ("yellow", "mustard", "lemon")),
    "green": Colour((34, 94, 60), ("dark green", "forest green", "bottle green")),
    "sage": Colour((162, 184, 144), ("light green", "sage", "pale green")),
    "teal": Colour((18, 130, 138), ("teal", "turquoise", "petrol")),
    "light blue": Colour((148, 190, 226), ("light blue", "sky blue", "pale blue")),
    "navy": Colour((28, 46, 100), ("navy", "dark blue", "midnight blue")),
    "purple": Colour((120, 74, 148), ("purple", "violet", "plum")),
}

NEIGHBOUR_COLOURS = frozenset(
    frozenset(pair)
    for pair in (
        ("white", "beige"), ("white", "grey"), ("beige", "brown"), ("beige", "yellow"),
        ("grey", "black"), ("black", "navy"), ("brown", "orange"), ("orange", "yellow"),
        ("orange", "red"), ("red", "pink"), ("pink", "purple"), ("purple", "navy"),
        ("navy", "light blue"), ("light blue", "teal"), ("teal", "green"), ("green", "sage"),
    )
)  # fmt: skip

PATTERNS = {
    "plain": Pattern(("plain", "solid", "unpatterned"), ("without any pattern", "in one colour")),
    "striped": Pattern(("striped", "stripy"), ("with stripes", "that has stripes")),
    "dotted": Pattern(("dotted", "polka dot", "spotted"), ("with dots", "with polka dots")),
    "checked": Pattern(("checked", "gingham", "plaid"), ("with checks", "in gingham")),
    "floral": Pattern(("floral", "flowered"), ("with flowers on it", "with blossoms")),
    "chevron": Pattern(("chevron", "zigzag"), ("with zigzags", "with a chevron look")),
    "leaf": Pattern(("leaf print", "leafy", "botanical"), ("with leaves on it", "with foliage")),
    "marbled": Pattern(("marbled", "marble effect"), ("that looks like marble", "with veining")),
    "geometric": Pattern(("geometric", "diamond"), ("with diamonds", "with geometric shapes")),
}

NEIGHBOUR_PATTERNS = frozenset(
    frozenset(pair)
    for pair in (
        ("striped", "chevron"), ("striped", "checked"), ("checked", "geometric"),
        ("chevron", "geometric"), ("floral", "leaf"), ("dotted", "floral"), ("plain", "marbled"),
    )
)  # fmt: skip

# Each brand has its own series; both appear with every kind, so a split shares them all.
BRANDS = {
    "Halvard": ("Fjord", "Tuva", "Solvig"),
    "Norrby": ("Linnea", "Otto", "Tove"),
    "Oakwell": ("Hugo", "Vera", "Wren"),
    "Merrow": ("Isla", "Orla", "Kaya"),
    "Casa Lumen": ("Mira", "Enzo", "Elio"),
    "Saltwick": ("Thea", "Juno", "Remi"),
    "Maruko": ("Nara", "Suki", "Ren"),
    "Pellore": ("Ines", "Nilo", "Cleo"),
    "Kestrel Home": ("Freya", "Ravi", "Zeno"),
    "Tilde": ("Lotte", "Bodil", "Ulla"),
    "Ostara": ("Saga", "Yara", "Marlo"),
    "Fernhill": ("Pax", "Alma", "Ada"),
}

FEATURES = {
    "washable": Feature(
        ("Machine washable at 40 degrees.", "Goes in the washing machine."),
        ("washable", "machine washable"),
        ("that can go in the washing machine", "that is easy to wash"),
    ),
    "outdoor": Feature(
        ("Made to live outdoors.", "Shrugs off rain and sun."),
        ("outdoor", "weatherproof"),
        ("for the balcony", "that can stay outside in the rain"),
    ),
    "dishwasher": Feature(
        ("Dishwasher safe.", "Goes in the dishwasher."),
        ("dishwasher safe", "dishwasher proof"),
        ("that can go in the dishwasher", "I do not have to wash by hand"),
    ),
    "dimmable": Feature(
        ("Dimmable, from bright to candlelight.", "Comes with a dimmer."),
        ("dimmable", "dimming"),
        ("that I can dim", "with adjustable brightness"),
    ),
    "cordless": Feature(
        ("Rechargeable and cordless.", "Runs on a built-in battery."),
        ("cordless", "rechargeable"),
        ("that needs no socket", "that runs on a battery"),
    ),
    "handmade": Feature(
        ("Made by hand in small batches.", "Every piece is handmade."),
        ("handmade", "artisan"),
        ("made by hand", "from a small workshop"),
    ),
    "recycled": Feature(
        ("Made from recycled material.", "At least 90 % recycled content."),
        ("recycled", "eco friendly"),
        ("made of recycled stuff", "that is kind to the planet"),
    ),
    "children": Feature(
        ("Tested and safe for children.", "Made with the nursery in mind."),
        ("kids", "nursery"),
        ("for my child's room", "that is safe for kids"),
    ),
    "foldable": Feature(
        ("Folds away when not needed.", "Folds up for storage."),
        ("foldable", "folding"),
        ("that folds away", "I can fold up and store"),
    ),
    "nonslip": Feature(
        ("With a non-slip base.", "The underside does not slip."),
        ("non slip", "anti slip"),
        ("that does not slide around", "that stays in its place"),
    ),
    "quiet": Feature(
        ("Runs without ticking.", "Silent movement."),
        ("silent", "non ticking"),
        ("that does not tick", "I will not hear at night"),
    ),
    "stackable": Feature(
        ("Stackable to save room.", "Several stack neatly."),
        ("stackable", "stacking"),
        ("that stacks in the cupboard", "I can stack"),
    ),
    "scented": Feature(
        ("Smells of cedar and fig.", "Scented with lavender oil."),
        ("scented", "fragrant"),
        ("that smells nice", "with a scent"),
    ),
    "insulating": Feature(
        ("Keeps warmth in and draughts out.", "Thermal quality for cold days."),
        ("thermal", "insulating"),
        ("that keeps the cold out", "for chilly evenings"),
    ),
    "compact": Feature(
        ("Compact, for small homes.", "Made for narrow rooms."),
        ("compact", "space saving"),
        ("for a tiny flat", "that takes little room"),
    ),
    "watertight": Feature(
        ("Watertight and drip free.", "Holds water without leaking."),
        ("watertight", "leakproof"),
        ("that does not leak", "that holds water"),
    ),
    "gift": Feature(
        ("Comes in a gift box.", "Packed ready to give away."),
        ("gift boxed", "gift"),
        ("as a present", "to give to a friend"),
    ),
}

_TEXTILES = ("linen", "velvet", "wool", "cotton")
_LAMPS = ("linen", "metal", "paper", "rattan")
_CROCKERY = ("dishwasher", "handmade", "stackable", "gift")

KINDS = {
    "cushion": Kind(
        ("cushion", "throw pillow", "scatter cushion"), ("pillow", "sofa cushion"),
        "to lean on on the sofa", True, "lean", ("square", "oblong", "round"), _TEXTILES,
        ("washable", "outdoor", "recycled", "handmade"), ("45 x 45 cm", "50 x 50 cm", "60 cm wide"),
        ("Softens a sofa or a bench.", "For reading in bed or on the sofa."),
    ),
    "throw": Kind(
        ("throw", "blanket", "throw blanket"), ("sofa blanket", "cosy blanket"),
        "to snuggle under on the sofa", True, "lie", ("folded", "rolled"),
        ("wool", "cotton", "linen"),
        ("washable", "insulating", "recycled", "gift"), ("130 x 170 cm", "140 x 200 cm"),
        ("Keeps knees warm on the couch.", "Lives at the foot of the bed."),
    ),
    "rug": Kind(
        ("rug", "area rug", "carpet"), ("floor rug",),
        "to put on the living room floor", True, "lie", ("rectangle", "round", "runner"),
        ("wool", "cotton", "rattan"),
        ("nonslip", "washable", "outdoor", "children"), ("160 x 230 cm", "120 x 180 cm", "2 m"),
        ("Warm underfoot in the living room.", "Brings a seating area together."),
    ),
    "curtain": Kind(
        ("curtains", "drapes", "curtain panels"), ("window curtains",),
        "to hang in front of my windows", False, "hang", ("open", "closed", "short"),
        ("linen", "velvet", "cotton"),
        ("insulating", "washable", "recycled", "children"), ("two of 140 x 250 cm", "280 cm wide"),
        ("Hangs from a rod, rings included.", "Frames the window and softens the sound."),
    ),
    "bed linen": Kind(
        ("bed linen", "duvet set", "bedding"), ("bedding set", "duvet cover and pillowcases"),
        "to make the bed with", False, "stand", ("headboard", "low"), ("cotton", "linen"),
        ("washable", "children", "recycled", "insulating"), ("140 x 200 cm", "240 x 220 cm"),
        ("A duvet cover with two pillowcases.", "Breathes well and gets softer every year."),
    ),
    "vase": Kind(
        ("vase", "table vase", "stem vase"), ("flower vase",),
        "to put fresh tulips in", True, "stand", ("bottle", "urn", "cylinder", "bulb"),
        ("ceramic", "glass", "metal"),
        ("watertight", "handmade", "recycled", "gift"), ("24 cm high", "31 cm high"),
        ("For a single stem or a bouquet.", "Looks good empty, too."),
    ),
    "plant pot": Kind(
        ("plant pot", "planter", "plant holder"), ("flower pot", "cachepot"),
        "to grow a houseplant in", True, "stand", ("tapered", "round", "footed"),
        ("ceramic", "metal", "rattan"),
        ("watertight", "outdoor", "handmade", "recycled"), ("16 cm across", "22 cm across"),
        ("For herbs and houseplants.", "Gives a fig or a fern a home."),
    ),
    "bowl": Kind(
        ("bowl", "serving bowl", "fruit bowl"), ("salad bowl",),
        "to serve salad in", True, "stand", ("deep", "wide", "footed"),
        ("ceramic", "wood", "glass"), _CROCKERY, ("1.5 l", "26 cm across"),
        ("For soup, fruit or a salad for two.", "From the kitchen straight to the table."),
    ),
    "plate": Kind(
        ("plate", "dinner plate", "serving plate"), ("dish",),
        "to eat dinner from", True, "lie", ("rimmed", "coupe", "square"),
        ("ceramic", "glass", "wood"), _CROCKERY, ("27 cm across", "21 cm across"),
        ("For everyday dinners and for guests.", "The start of a good table."),
    ),
    "mug": Kind(
        ("mug", "coffee mug", "cup"), ("tea cup", "coffee cup"),
        "to drink coffee from", True, "stand", ("straight", "round", "flared"),
        ("ceramic", "glass", "metal"), _CROCKERY, ("300 ml", "400 ml"),
        ("For the first coffee of the day.", "Holds a generous pot of tea."),
    ),
    "candle": Kind(
        ("candle", "pillar candle", "table candle"), ("decorative candle",),
        "to burn on a cosy evening", True, "stand", ("pillar", "jar", "group"),
        ("wax", "glass", "metal"),
        ("scented", "handmade", "gift", "outdoor"), ("burns 40 hours", "15 cm high"),
        ("For slow evenings.", "A calm flame that hardly drips."),
    ),
    "basket": Kind(
        ("basket", "storage basket", "laundry basket"), ("hamper",),
        "to keep the laundry in", True, "stand", ("tall", "wide", "handled"),
        ("rattan", "cotton", "paper"),
        ("foldable", "handmade", "children", "stackable"), ("45 l", "30 cm high"),
        ("Tidies toys, towels and magazines.", "For everything without a home."),
    ),
    "table lamp": Kind(
        ("table lamp", "bedside lamp", "desk lamp"), ("nightstand lamp",),
        "to light my bedside table", True, "stand", ("urn", "column", "mushroom"), _LAMPS,
        ("dimmable", "cordless", "compact", "children"), ("42 cm high", "E14 socket"),
        ("A soft glow for the nightstand.", "Warm light beside the bed."),
    ),
    "floor lamp": Kind(
        ("floor lamp", "standing lamp", "reading lamp"), ("tall lamp",),
        "to stand in the corner and read by", True, "stand", ("tripod", "straight", "arc"), _LAMPS,
        ("dimmable", "compact", "recycled", "nonslip"), ("150 cm high", "E27 socket"),
        ("Warm light next to the sofa.", "Lights the page, not the room."),
    ),
    "pendant lamp": Kind(
        ("pendant lamp", "hanging lamp", "ceiling pendant"), ("ceiling lamp",),
        "to hang over the dining table", True, "hang", ("dome", "globe", "cone"),
        ("metal", "glass", "paper", "rattan"),
        ("dimmable", "handmade", "recycled", "outdoor"), ("38 cm across", "1.5 m cable"),
        ("Hangs low over the dining table.", "Centres the room."),
    ),
    "armchair": Kind(
        ("armchair", "lounge chair", "easy chair"), ("reading chair",),
        "to sit and read in", True, "stand", ("club", "wing", "tub"), ("velvet", "linen", "wool"),
        ("washable", "compact", "recycled", "children"), ("78 cm wide", "seat height 43 cm"),
        ("Made for long evenings with a book.", "Deep seat, firm back."),
    ),
    "side table": Kind(
        ("side table", "end table", "occasional table"), ("small table", "coffee table"),
        "to put my cup on next to the sofa", True, "stand", ("tripod", "drum", "square"),
        ("wood", "metal", "rattan"),
        ("foldable", "compact", "outdoor", "nonslip"), ("45 cm across", "50 cm high"),
        ("Holds a lamp, a book and a cup.", "Pulls up to the sofa."),
    ),
    "clock": Kind(
        ("wall clock", "clock", "kitchen clock"), ("hanging clock",),
        "to tell me the time", True, "hang", ("round", "square", "octagon"),
        ("wood", "metal", "ceramic"),
        ("quiet", "children", "handmade", "gift"), ("30 cm across", "one AA battery"),
        ("Easy to read from across the room.", "For the kitchen wall."),
    ),
    "mirror": Kind(
        ("mirror", "wall mirror", "hallway mirror"), ("looking glass",),
        "to see myself in", True, "hang", ("round", "arch", "rectangle"),
        ("wood", "metal", "rattan"),
        ("handmade", "compact", "recycled", "children"), ("60 cm across", "50 x 90 cm"),
        ("Makes a hallway wider.", "A last look before leaving."),
    ),
    "poster": Kind(
        ("poster", "art print", "framed print"), ("wall art", "picture"),
        "to decorate an empty wall", True, "hang", ("portrait", "square", "pair"),
        ("paper", "cotton"),
        ("recycled", "gift", "handmade", "children"), ("50 x 70 cm", "30 x 40 cm"),
        ("Framed and ready to hang.", "Finishes the wall above the sofa."),
    ),
}  # fmt: skip
