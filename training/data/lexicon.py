"""The English words that rule-made negatives know: attributes by kind, things that exclude each other, relations.

Lists are short on purpose. A word that is not here makes no negative; a word that is here wrongly makes a false one.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ATTRIBUTES = {
    "colour": """red green blue yellow orange purple=violet pink brown black white grey=gray gold=golden silver beige
        tan turquoise blond=blonde""",
    "size": "small=little=tiny=miniature large=big=huge=giant=enormous medium tall short long wide narrow",
    "material": "wooden metal=metallic plastic rubber glass leather stone concrete=cement brick paper ceramic wicker",
    "pattern": "striped spotted=dotted checkered=checked plaid floral",
    "age": "young old=elderly new",
    "state": "open closed empty full wet dry clean dirty broken dark bright",
    "touch": "fluffy=furry=hairy shiny smooth rough soft round",
    "pose": "sitting standing lying sleeping running walking jumping swimming flying smiling crying",
}
ATTRIBUTES: dict[str, tuple[str, str]] = {
    word: (kind, several.split("=")[0])
    for kind, words in _ATTRIBUTES.items()
    for several in words.split()
    for word in several.split("=")
}
"""Each attribute's kind and its plainest synonym."""

EXCLUSIVE: tuple[tuple[str, ...], ...] = tuple(
    tuple(line.split())
    for line in (
        "dog cat horse cow sheep elephant giraffe zebra bear rabbit pig goat monkey lion tiger bird",
        "car bus truck train bicycle motorcycle boat airplane helicopter tractor",
        "chair table bed sofa bench",
        "pizza sandwich cake banana apple carrot burger",
        "beach kitchen bathroom bedroom forest desert stadium",
        "frisbee kite surfboard skateboard snowboard",
        "guitar piano violin drum trumpet flute",
        "circle square triangle star heart cross ring diamond",
    )
)
"""Lists of things of which a thing can be only one."""

COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "pink", "brown", "black", "white", "grey")
NEAR_COLOURS: frozenset[frozenset[str]] = frozenset(
    frozenset(pair.split("/"))
    for pair in (
        "red/orange",
        "red/pink",
        "red/brown",
        "orange/yellow",
        "orange/brown",
        "purple/pink",
        "purple/blue",
        "grey/white",
        "grey/black",
    )
)
"""Pairs that two people may call the same."""

NOUN_SYNONYMS = {
    "disc": "circle", "disk": "circle", "rhombus": "diamond", "couch": "sofa", "bike": "bicycle",
    "motorbike": "motorcycle", "automobile": "car", "plane": "airplane", "aeroplane": "airplane", "puppy": "dog",
    "kitten": "cat", "kid": "child",
    "children": "child", "men": "man", "women": "woman", "people": "person", "lady": "woman", "guy": "man",
    "photo": "picture", "photograph": "picture", "image": "picture", "television": "tv", "hamburger": "burger",
}  # fmt: skip

ARTICLES = frozenset(("a", "an", "the"))
DETERMINERS = ARTICLES | _words(
    "one two three four five six some several many his her its their this that these those another each"
)
SINGULAR = ARTICLES | _words("one his her its their this that another")
COPULAS = _words("is are was were be being been looks look seems that which painted coloured very in")
NOUNS_IN_ING = _words(
    """ring king wing string thing swing spring sling ceiling building painting drawing wedding clothing evening morning
    railing earring pudding duckling""".strip()
)
JOINTS = frozenset(("and", "or", ",", "&", "-", "/"))
NEGATORS = _words(
    "no not never without none neither nor nobody nothing isn't aren't wasn't weren't doesn't don't except"
)
FUNCTION_WORDS = (
    DETERMINERS
    | COPULAS
    | _words(
        """
    to of in on at by for from with near next beside behind under over above below inside outside into onto
    around through across between against along beneath underneath while as but who where when there it he she
    they has have had his her its their also both left right top bottom front up down . ; : ! ? ( ) " '
    """
    )
)

OPPOSITES = (
    ("left", "right"),
    ("above", "below"),
    ("top", "bottom"),
    ("in front of", "behind"),
    ("inside", "outside"),
    ("on top of", "underneath"),
    ("over", "under"),
    ("on", "under"),
    ("before", "after"),
    ("bigger than", "smaller than"),
    ("larger than", "smaller than"),
    ("taller than", "shorter than"),
    ("upper", "lower"),
    ("going up", "going down"),
)

FLIPPED = {
    "right of": "left of", "below": "above", "under": "above", "beneath": "above", "underneath": "above",
    "behind": "in front of", "after": "before", "smaller than": "larger than", "shorter than": "taller than",
}  # fmt: skip
"""Relations that say the same as another one with its sides changed."""
SAME = {"over": "above", "on top of": "above", "bigger than": "larger than", "atop": "above"}
SYMMETRIC = frozenset(("next to", "beside", "near", "close to", "with", "touching", "facing", "alongside", "and"))
ACTIONS = _words(
    """
    holding riding chasing carrying eating pulling pushing following watching biting hitting kicking throwing
    catching licking feeding leading pointing
    """
)
ASYMMETRIC = frozenset(("left of", "above", "in front of", "before", "larger than", "taller than", "on", "inside"))
