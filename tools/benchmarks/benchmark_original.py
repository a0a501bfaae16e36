"""The PyTorch original as a contestant of `benchmark_step.py`.

Its images are in memory already: reading and augmenting them is not measured. On a GPU it may
round to TF32 and cuDNN searches its algorithms, as in a fast PyTorch program. With `--compiler`,
`torch.compile` makes one program of the student with its losses and one of the teacher, in the
layout that tensor cores use.
"""

import time

import torch
from benchmark_child import Seconds, Setting, between, serve, timed
from torch_original import Original

from jaxdistill.runtime import errors


class OriginalStep:
    def __init__(self, setting: Setting) -> None:
        settings = setting.settings
        if setting.threads:
            torch.set_num_threads(setting.threads)
        torch.manual_seed(settings.seed)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
        self._original = Original(settings, setting.teacher_checkpoint, setting.threads)
        device = self._original.device
        self._on_gpu = device.type == "cuda"
        self.found = {"device": torch.cuda.get_device_name() if self._on_gpu else "cpu"}
        batch, size = settings.training.batch_size, settings.data.image_size
        self._images = torch.rand(batch, 3, *size, device=device)
        self._masks = torch.randint(2, (batch, 1, *size), device=device).float()
        if setting.compiler:
            self._original.compile(setting.compiler)
            self._images = self._images.to(memory_format=torch.channels_last)
        self.whole(1)
        if self._on_gpu:  # what cuDNN tried its algorithms with
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def whole(self, steps: int) -> Seconds:
        step = self._original.train_step
        return {"whole step": timed(lambda: step(self._images, self._masks), steps, self._now)}

    def parts(self, steps: int) -> Seconds:
        teacher, detector = self._original.teacher, self._original.detector
        return {
            "teacher": timed(lambda: teacher(self._images), steps, self._now),
            "detector": timed(lambda: detector(self._images), steps, self._now),
            **self._student(steps),
        }

    def device_memory(self) -> int | None:
        return torch.cuda.max_memory_allocated() if self._on_gpu else None

    def _student(self, steps: int) -> Seconds:
        """Measures the student's step as a whole, and its three parts."""
        original = self._original
        logits, features = original.teacher(self._images), original.detector(self._images)
        taken: Seconds = {name: [] for name in ("student step", "forward", "backward", "update")}
        for turn in range(steps + 1):
            marks = [self._now()]
            loss = original.loss(self._images, self._masks, logits, features)
            marks.append(self._now())
            original.backward(loss)
            marks.append(self._now())
            original.update()
            marks.append(self._now())
            if turn > 0:  # the caches are cold at first
                for name, seconds in zip(
                    taken, (marks[-1] - marks[0], *between(marks)), strict=True
                ):
                    taken[name].append(seconds)
        return taken

    def _now(self) -> float:
        if self._on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()


if __name__ == "__main__":
    raise SystemExit(errors.command(lambda: serve(OriginalStep)))
