"""Masks of videos and cameras: steady over time, and written as videos.

`predict_video` draws the masks of a whole clip, which `jaxdistill.data.video.open_source` opens;
`Smoother` steadies the masks of any sequence.
"""

from jaxdistill.evaluation.video.prediction import VideoReport, check_video_options, predict_video
from jaxdistill.evaluation.video.smoothing import Smoother, flicker
from jaxdistill.evaluation.video.steadiness import measure_flicker

__all__ = [
    "Smoother",
    "VideoReport",
    "check_video_options",
    "flicker",
    "measure_flicker",
    "predict_video",
]
