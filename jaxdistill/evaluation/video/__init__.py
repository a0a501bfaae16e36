"""Videos and cameras: reading, masks that are steady over time, and writing.

`predict_video` draws the masks of a whole clip; `Smoother` steadies the masks of any sequence.
"""

from jaxdistill.data.video import Frame, VideoSource, open_source
from jaxdistill.evaluation.video.prediction import VideoReport, predict_video
from jaxdistill.evaluation.video.smoothing import Smoother, flicker
from jaxdistill.evaluation.video.steadiness import measure_flicker

__all__ = [
    "Frame",
    "Smoother",
    "VideoReport",
    "VideoSource",
    "flicker",
    "measure_flicker",
    "open_source",
    "predict_video",
]
