"""Words of English by part of speech, for `TokenSets.standard`.

Closed classes are nearly whole; open ones are common words that are seldom anything else, so that a set says what it
is called. All are in lower case, which stands for the capitalised form too.
"""

from __future__ import annotations

_WORDS = {
    "pronouns": (
        "i me my mine myself you your yours yourself yourselves he him his himself she her hers herself it its itself"
        " we us our ours ourselves they them their theirs themselves someone somebody something anyone anybody"
        " anything everyone everybody everything nobody nothing"
    ),
    "determiners": (
        "the a an this that these those each every either neither some any no another both all such"
    ),
    "prepositions": (
        "of in to for with on at from by about into through during before after above below between under over"
        " against among around behind beside beyond despite across along inside outside near toward towards upon"
        " within without until since onto off"
    ),
    "conjunctions": ("and or but nor because although though while whereas unless if whether so yet once"),
    "auxiliary verbs": (
        "am is are was were be been being have has had having do does did can could will would shall should may might"
        " must"
    ),
    "question words": "who whom whose what which when where why how",
    "number words": (
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
        " seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million"
        " billion first second third fourth fifth"
    ),
    "nouns": (
        "man woman child children boy girl mother father mom dad friend family people house home room door window"
        " table chair bed kitchen garden tree flower grass forest river sea lake mountain hill sky sun moon star cloud"
        " rain snow water fire stone city town village road street school teacher book story letter word name day"
        " night morning evening week month year dog cat bird fish horse cow bear rabbit mouse frog animal food bread"
        " cake apple milk egg fruit ball toy box bag car truck train boat bike plane hat shirt shoe hand head eye ear"
        " nose mouth face foot leg arm hair heart king queen doctor government country company system number"
    ),
    "verbs": (
        "go goes went gone come came get got give gave given take took taken make made see saw seen know knew known"
        " think thought say said tell told ask asked find found want wanted need needed like liked love loved help"
        " helped run ran walk walked eat ate eaten drink drank sleep slept sit sat stand stood bring brought buy"
        " bought catch caught sing sang read write wrote written begin began keep kept hold held leave left feel felt"
        " hear heard learn learned become became fall fell jump jumped laugh laughed cry cried smile smiled throw threw"
        " grow grew speak spoke"
    ),
    "adjectives": (
        "big small little large tiny huge good bad great happy sad angry scared brave kind nice pretty beautiful ugly"
        " old young new long short tall high low deep wide narrow hot cold warm cool wet dry clean dirty fast slow"
        " strong weak hard soft loud quiet bright dark heavy light red blue green yellow white black brown pink purple"
        " orange smart silly funny hungry tired sleepy curious proud excited lonely gentle friendly careful different"
        " important special true false easy difficult rich poor sick healthy empty full"
    ),
    "adverbs": (
        "very quickly slowly always never often sometimes usually again almost already also away carefully certainly"
        " easily especially even ever finally here there however indeed instead just later maybe nearly now only"
        " perhaps probably quite rather really simply soon still suddenly then together too usually well"
    ),
}
PARTS_OF_SPEECH = {part: frozenset(words.split()) for part, words in _WORDS.items()}
"""Part of speech → its words."""
