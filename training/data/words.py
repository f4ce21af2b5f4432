"""Words that a change of the picture would make untrue: directions under a mirror, colours under a jitter."""

from __future__ import annotations

import re
from collections.abc import Iterable

_WORD = re.compile(r"\w+")

_DIRECTIONS = """
left right leftmost rightmost lefthand righthand leftward leftwards rightward rightwards clockwise
counterclockwise anticlockwise
links rechts linke linken linker linkes linkem rechte rechten rechter rechtes rechtem uhrzeigersinn
gauche gauches droite droites droit droits
izquierda izquierdas izquierdo izquierdos derecha derechas derecho derechos
sinistra sinistro destra destro esquerda esquerdo direita direito linkerkant rechterkant
左 右
"""
DIRECTIONS: frozenset[str] = frozenset(_DIRECTIONS.split())
"""What a mirrored picture contradicts: a line each for English (two), German, French and Spanish, some of Italian,
Portuguese and Dutch, and Chinese and Japanese."""

_ENGLISH_COLOURS = """
red green blue yellow orange purple violet pink brown black white grey gray cyan magenta turquoise teal beige
cream ivory gold golden silver bronze copper maroon crimson scarlet navy lime olive indigo lavender lilac tan
khaki rose coral amber aqua azure mint peach plum ruby salmon mustard burgundy fuchsia mauve blond blonde
brunette ginger reddish greenish bluish yellowish brownish greyish grayish whitish blackish pinkish purplish
colour colours color colors coloured colored colourful colorful colorless colourless multicolored multicoloured
monochrome greyscale grayscale sepia rainbow tinted pale
"""
_GERMAN_STEMS = """
rot grün blau gelb violett braun schwarz weiß weiss grau türkis golden silbern bunt farbig einfarbig mehrfarbig
rötlich grünlich bläulich gelblich bräunlich gräulich beigefarben blond dunkelblau hellblau dunkelrot hellrot
dunkelgrün hellgrün
"""
_GERMAN_ENDINGS = ("", "e", "en", "em", "er", "es")
_GERMAN_COLOURS = "lila rosa orange orangefarben beige pink cyan magenta farbe farben gold silber"
_FRENCH_COLOURS = """
rouge rouges vert verte verts vertes bleu bleue bleus bleues jaune jaunes violet violette violets violettes rose
roses marron brun brune bruns brunes noir noire noirs noires blanc blanche blancs blanches gris grise grises
doré dorée dorés dorées argenté argentée argentés argentées turquoise beige beiges blond blonde blonds blondes
roux rousse couleur couleurs coloré colorée colorés colorées multicolore
"""
_SPANISH_COLOURS = """
rojo roja rojos rojas verde verdes azul azules amarillo amarilla amarillos amarillas naranja naranjas morado
morada morados moradas violeta violetas rosa rosas rosado rosada marrón marrones café negro negra negros negras
blanco blanca blancos blancas gris grises dorado dorada dorados doradas plateado plateada plateados plateadas
turquesa rubio rubia color colores colorido colorida coloridos coloridas
"""
_OTHER_COLOURS = """
rosso rossa rossi rosse blu giallo gialla gialli gialle arancione viola nero nera neri nere bianco bianca
bianchi bianche grigio grigia vermelho vermelha amarelo amarela preto preta branco branca cinza roxo roxa
laranja rood rode groen groene blauw blauwe geel gele paars paarse zwart zwarte wit witte grijs grijze bruin
bruine
"""

_IDEOGRAPHS = "红 紅 绿 緑 綠 蓝 藍 青 黄 黃 橙 紫 粉 棕 茶色 黑 黒 白 灰 金色 银 銀 赤 色"
_OTHERS = (_ENGLISH_COLOURS, _GERMAN_COLOURS, _FRENCH_COLOURS, _SPANISH_COLOURS, _OTHER_COLOURS, _IDEOGRAPHS)
COLOURS: frozenset[str] = frozenset(
    [word for words in _OTHERS for word in words.split()]
    + [stem + ending for stem in _GERMAN_STEMS.split() for ending in _GERMAN_ENDINGS]
)
"""What a colour jitter or a greyscale picture contradicts, in the same languages. Words that are something else as well
("rose", "orange", "pale") are in: leaving one picture as it is costs little, a wrong caption costs more."""


class WordList:
    """Words to look for in texts. Case does not count; in scripts without spaces a word is found inside others."""

    def __init__(self, words: Iterable[str]) -> None:
        folded = {word.casefold() for word in words}
        self._inside = frozenset(word for word in folded if any(_is_ideograph(letter) for letter in word))
        self._whole = folded - self._inside

    def named_in(self, text: str) -> bool:
        """Whether a text has one of the words."""
        folded = text.casefold()
        return not self._whole.isdisjoint(_WORD.findall(folded)) or any(word in folded for word in self._inside)


def _is_ideograph(letter: str) -> bool:
    return "\u3040" <= letter <= "\u9fff"
