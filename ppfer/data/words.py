"""The words of CREMA-D (Cao et al., 2014) and DFEW (Jiang et al., 2020), as their files spell them.

`ppfer.data` reads file names with them, `ppfer.twin` writes files with them.
"""

EMOTIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad")  # CREMA-D's six

SENTENCES = {
    "IEO": "it's eleven o'clock",
    "TIE": "that is exactly what happened",
    "IOM": "i'm on my way to the meeting",
    "IWW": "i wonder what this is about",
    "TAI": "the airplane is almost full",
    "MTI": "maybe tomorrow it will be cold",
    "IWL": "i would like a new alarm clock",
    "ITH": "i think i have a doctor's appointment",
    "DFA": "don't forget a jacket",
    "ITS": "i think i've seen this before",
    "TSI": "the surface is slick",
    "WSI": "we'll stop in a couple of minutes",
}
LEVELS = ("LO", "MD", "HI", "XX")  # of emotion: low, medium, high, unspecified
EMOTION_CODES = {word[:3].upper(): word for word in EMOTIONS}  # ANG, DIS, FEA, HAP, NEU, SAD
DFEW_EMOTIONS = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")  # labels 1 to 7
