"""EEG pattern classification with Keras: helpers behind the notebooks.

Importing the package reads no files and imports no TensorFlow; what builds or trains networks does.
"""

import os

from hmsutils.competition import CLASSES, ELECTRODES, VOTE_COLUMNS, Competition
from hmsutils.files import find_competition

__version__ = "0.1.0"
__all__ = ["CLASSES", "ELECTRODES", "VOTE_COLUMNS", "Competition", "find_competition"]

# Read when TensorFlow is imported; twice as fast on CPUs for which it is not the default.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
