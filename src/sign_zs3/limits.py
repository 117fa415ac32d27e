"""Bounds on what files and options may ask for: all that a hostile or damaged one could claim is held against these."""

# bytes of a list or a JSON file: what is made of one takes some thirty times as much memory
MAX_TEXT = 1 << 26
# bytes of a YAML file: its reader takes ten seconds for a few MB
MAX_YAML = 1 << 18
# lists and mappings within one another in a YAML file
MAX_DEPTH = 100
# lists and mappings within one another in JSON and in a checkpoint's options, which nest some five deep
MAX_LEVELS = 20
# values in a checkpoint's options or a YAML file, whose aliases may stand for far more than it holds, and in a JSON
# file, which may hold the scores of each class after each phase
MAX_VALUES, MAX_JSON_VALUES = 10_000, 100_000
# characters of a class name: near spellings of a name are looked for, which costs the square of its length
MAX_NAME = 200
# characters of the path of a mask to be written below its folder
MAX_PATH = 1_000
# of an image, unless told otherwise
MAX_PIXELS = 100_000_000
# bytes in a checkpoint that are no tensor: torch takes ten seconds for as many, and a ResNet-152 needs a tenth
MAX_PICKLE = 1 << 23
# bytes of a MATLAB file, and of a variable unpacked
MAX_MATLAB = 1 << 26
# arrays within one another in a MATLAB file, and arrays in all: their reader recurses, and takes memory for each
MAX_MATLAB_DEPTH, MAX_MATLAB_ELEMENTS = 16, 100_000
# bytes of a table of class vectors, unpacked: 400,000 names with 600 numbers each
MAX_TABLE = 1 << 30
# numbers in a word vector: a header that claims more is damaged, and nothing is allocated for it
MAX_WIDTH = 16_384
# bytes of a word in a file of word vectors
MAX_WORD = 1 << 16
# bytes that a byte of a ``.gz`` file may unpack to, and bytes that any may: of vectors it is some three, of a
# decompression bomb 1032
GZIP_RATIO, GZIP_ROOM = 100, 1 << 24
# the largest scale at which a model reads images, and the most of them: attention costs a scale's fourth power
MAX_SCALE, MAX_SCALES = 4.0, 16
# cells of a feature map's side in training: its encoding takes memory whatever the size of an image
MAX_SIDE = 512
# cells; a dilation beyond the map reads nothing but padding, which takes memory all the same
MAX_DILATION = 1024
# of self-training; each is a phase in the schedule's list
MAX_ROUNDS = 1_000
# bytes of a JSON file of annotations: that of COCO's training images has some 450 MB, and takes ten times that
MAX_ANNOTATIONS = 1 << 30
