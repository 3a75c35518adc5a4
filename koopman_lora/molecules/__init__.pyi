from .files import MoleculeFiles as MoleculeFiles
from .frames import frames_along_mode as frames_along_mode
from .frames import frames_of_state as frames_of_state
from .frames import transition_frames as transition_frames
